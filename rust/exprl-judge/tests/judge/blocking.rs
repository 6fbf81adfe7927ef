//! Jobs of callers that block a thread or wait for a descriptor.

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use exprl_judge::{BlockingJob, Error, Graded, Item, Judge, Settings, Status};
use tokio::runtime::Runtime;

use crate::support::{Answer, Server, item, settings};

type Job = BlockingJob<Arc<str>>;
type Source = fn() -> Option<Result<Item, Error>>;

/// Why a call ended.
#[derive(Debug)]
enum Stopped {
    Judge(Error),
    Interrupted,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Judge(error)
    }
}

/// A judge with a queue of `queue_bytes`, in front of a server that gives one answer after another, each
/// after `delay`.
fn judge(delay: Duration, queue_bytes: usize) -> (Runtime, Server, Judge) {
    let runtime = Runtime::new().unwrap();
    let answer = move |_, _: &_| Answer::Slow(delay, "Score: 4".into());
    let server = runtime.block_on(Server::start(answer));
    let settings = Settings {
        queue_bytes,
        concurrency: 1,
        ..settings(&[&server])
    };
    let judge = Judge::new(&settings, runtime.handle().clone()).unwrap();
    (runtime, server, judge)
}

fn job(runtime: &Runtime, judge: &Judge) -> Job {
    BlockingJob::new(judge.submit(), runtime.handle().clone())
}

/// Nothing interrupts.
const NEVER: fn() -> Result<(), Error> = || Ok(());

/// All results, in the order of pushes.
fn collect<S: FnMut() -> Option<Result<Item, Error>>>(
    job: &Job,
    mut source: Option<S>,
) -> Vec<Graded> {
    let mut all = Vec::new();
    loop {
        let burst = job.wait(source.as_mut(), NEVER).unwrap();
        all.extend(burst.graded);
        if burst.finished {
            all.sort_by_key(|graded| graded.index);
            return all;
        }
    }
}

/// Waits until the job's descriptor is readable.
fn await_bell(runtime: &Runtime, job: &Job) {
    let descriptor = job.descriptor().unwrap().try_clone_to_owned().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::UnixStream::from_std(descriptor.into()).unwrap();
        let readable = tokio::time::timeout(Duration::from_secs(60), stream.readable());
        readable.await.expect("nobody rang").unwrap();
    });
}

/// Items without end, and how many of them were taken.
fn count_up(taken: &Cell<usize>) -> impl FnMut() -> Option<Result<Item, Error>> {
    || {
        taken.set(taken.get() + 1);
        Some(Ok(item(taken.get(), &["a trace"])))
    }
}

#[test]
fn a_source_is_read_while_there_is_room() {
    let (runtime, _server, judge) = judge(Duration::from_secs(60), 4096);
    let job = job(&runtime, &judge);
    let taken = Cell::new(0);
    job.feed(count_up(&taken)).unwrap();
    // At most one in flight, four queued, and one in the hand.
    assert!((5..=6).contains(&taken.get()), "{} taken", taken.get());
}

#[test]
fn a_job_ends_with_its_source() {
    let (runtime, _server, judge) = judge(Duration::from_millis(1), 4096);
    let job = job(&runtime, &judge);
    let taken = Cell::new(0);
    let mut items = count_up(&taken);
    let graded = collect(&job, Some(|| items().filter(|_| taken.get() <= 100)));
    let ids: Vec<_> = graded.iter().map(|graded| &*graded.id).collect();
    let pushed: Vec<_> = (1..=100).map(|id| format!("item {id}")).collect();
    assert_eq!(ids, pushed);
    assert_eq!(taken.get(), 101, "the end is asked for once");
}

#[test]
fn an_error_of_the_source_ends_the_call_and_loses_no_item() {
    let (runtime, _server, judge) = judge(Duration::ZERO, 1 << 20);
    let job = job(&runtime, &judge);
    let mut items = vec![Ok(item(0, &["a"])), Err(Error::Closed), Ok(item(1, &["b"]))].into_iter();
    assert!(job.feed(|| items.next()).is_err());
    assert_eq!(collect(&job, Some(|| items.next())).len(), 2);
}

#[test]
fn a_source_may_use_its_job() {
    let (runtime, _server, judge) = judge(Duration::from_secs(60), 1 << 20);
    let job = job(&runtime, &judge);
    let mut left = 3;
    let source = || {
        left -= 1;
        if left == 0 {
            job.cancel();
        }
        Some(Ok(item(left, &["a trace"])))
    };
    assert!(matches!(job.feed(source), Err(Error::Closed)));
    let graded = collect(&job, Some(|| panic!("a cancelled job takes no more")));
    assert_eq!(graded.len(), 2);
    assert!(
        graded
            .iter()
            .all(|graded| graded.verdicts[0].status == Status::Cancelled)
    );
}

#[test]
fn an_interrupt_ends_a_push_that_waits_for_room_and_queues_nothing() {
    let (runtime, _server, judge) = judge(Duration::from_secs(60), 1024);
    let job = job(&runtime, &judge);
    let interrupt = || Err(Stopped::Interrupted);
    let tries = (0..).map(|id| job.push(&item(id, &["a trace"]), interrupt));
    let queued = tries.take_while(Result::is_ok).count();
    job.cancel();
    assert_eq!(collect(&job, None::<Source>).len(), queued);
    let pushed = job.push(&item(0, &["a trace"]), interrupt);
    assert!(matches!(pushed, Err(Stopped::Judge(Error::Closed))));
}

#[test]
fn an_interrupt_ends_a_wait_and_leaves_the_results() {
    let (runtime, _server, judge) = judge(Duration::ZERO, 1 << 20);
    let job = job(&runtime, &judge);
    job.push(&item(0, &["a trace"]), NEVER).unwrap();
    job.close();
    let waited = job.wait(None::<fn() -> Option<Result<Item, Stopped>>>, || {
        Err(Stopped::Interrupted)
    });
    assert!(matches!(waited, Err(Stopped::Interrupted)));
    assert_eq!(collect(&job, None::<Source>).len(), 1);
}

#[test]
fn many_results_are_given_in_parts() {
    let (runtime, _server, judge) = judge(Duration::from_millis(20), 1 << 20);
    let job = job(&runtime, &judge);
    // Equal requests end together.
    let mut items = (0..300).map(|_| Ok::<_, Error>(item(0, &["the same"])));
    job.feed(|| items.next()).unwrap();
    let mut sizes = Vec::new();
    loop {
        let burst = job.wait(None::<Source>, NEVER).unwrap();
        sizes.push(burst.graded.len());
        if burst.finished {
            break;
        }
    }
    assert_eq!(sizes.iter().sum::<usize>(), 300);
    assert!(sizes.iter().all(|&size| size <= 256), "{sizes:?}");
}

#[test]
fn the_descriptor_is_readable_until_the_results_are_taken() {
    let (runtime, _server, judge) = judge(Duration::ZERO, 1 << 20);
    let job = job(&runtime, &judge);
    assert!(job.take(None::<Source>).unwrap().graded.is_empty());
    job.push(&item(0, &["a trace"]), NEVER).unwrap();
    let graded = loop {
        await_bell(&runtime, &job);
        let burst = job.take(None::<Source>).unwrap();
        if let Some(graded) = burst.graded.into_iter().next() {
            break graded;
        }
    };
    assert_eq!(graded.verdicts[0].grade, Some(4));
    let descriptor = job.descriptor().unwrap().try_clone_to_owned().unwrap();
    let error = UnixStream::from(descriptor).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_descriptor_is_readable_when_another_job_has_made_room() {
    let (runtime, _server, judge) = judge(Duration::from_millis(50), 1024);
    let (hog, job) = (job(&runtime, &judge), job(&runtime, &judge));
    let mut many = (10..).map(|id| Ok::<_, Error>(item(id, &["a trace"])));
    hog.feed(|| many.next()).unwrap();
    let mut items = [item(1, &["a trace"])].into_iter();
    let mut source = || items.next().map(Ok::<_, Error>);
    let graded = loop {
        await_bell(&runtime, &job);
        let burst = job.take(Some(&mut source)).unwrap();
        if burst.finished {
            break burst.graded;
        }
    };
    assert_eq!(graded[0].id, "item 1");
    assert!(!hog.take(None::<Source>).unwrap().graded.is_empty());
}
