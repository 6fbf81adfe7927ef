//! The scheduler replayed on servers that are simulated: how much of the prompts comes from their
//! prefix caches, and how evenly they are loaded. For benchmarks; no socket, no clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use exprl_judge::schedule::{Need, Pass, Schedule, mix};
use serde::Serialize;

use crate::server::{BLOCK, Hardware, Server};

/// Tokens of each part of the prompts, by problem and rollout.
#[derive(Debug, Clone)]
pub struct Load {
    /// The rubric before everything else, the same for all.
    pub rubric: usize,
    /// The instruction after the trace.
    pub instruction: usize,
    /// Problems with their rollouts.
    pub problems: Vec<Problem>,
    /// Rollouts, as (problem, rollout), in the order in which they are pushed.
    pub order: Vec<(usize, usize)>,
    /// Seconds over which they arrive, evenly.
    pub over_s: f64,
}

/// One problem's part of a load.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Tokens of its statement.
    pub statement: usize,
    /// Tokens of the reference.
    pub reference: usize,
    /// Tokens of each step of each rollout.
    pub rollouts: Vec<Vec<usize>>,
}

impl Load {
    /// One training step: `problems` x `rollouts` traces of 4 to 12 steps, with log-normal lengths of
    /// steps and references; pushed in a random order, as they end.
    #[must_use]
    pub fn training_step(problems: usize, rollouts: usize, seed: u64, over_s: f64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut about = |median: f64, sigma: f64| {
            // Box and Muller 1958.
            let radius = (-2.0 * random.f64().max(1e-12).ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * random.f64()).cos();
            (median * (sigma * normal).exp()).ceil() as usize
        };
        let problems: Vec<Problem> = (0..problems)
            .map(|_| Problem {
                statement: about(200.0, 0.5),
                reference: about(1000.0, 0.6),
                rollouts: (0..rollouts)
                    .map(|_| {
                        let steps = (about(8.0, 0.25)).clamp(4, 12);
                        (0..steps).map(|_| about(600.0, 0.7)).collect()
                    })
                    .collect(),
            })
            .collect();
        let pairs = |(p, problem): (usize, &Problem)| {
            let count = problem.rollouts.len();
            (0..count).map(move |r| (p, r)).collect::<Vec<_>>()
        };
        let mut order: Vec<_> = problems.iter().enumerate().flat_map(pairs).collect();
        random.shuffle(&mut order);
        Self {
            rubric: 500,
            instruction: 60,
            problems,
            order,
            over_s,
        }
    }
}

/// Where the parts of a prompt stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Rubric, problem, reference, trace, instruction.
    TraceLast,
    /// Rubric, problem, trace, reference and instruction: the published prompts.
    ReferenceAfterTrace,
    /// What differs between the steps stands first.
    StepFirst,
}

/// Who decides on order and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// This crate's scheduler.
    Scheduler,
    /// Requests in the order of rollouts, each to the next server in turn.
    RoundRobin,
    /// All first steps, then all second steps, ...; each rollout stays on one server.
    StepMajor,
    /// A rollout's prefixes back to back, to the server that its problem's hash names.
    Hash,
}

/// What a replay has measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Outcome {
    /// Requests sent.
    pub requests: usize,
    /// Prompt tokens sent.
    pub prompt_tokens: usize,
    /// Prompt tokens that had to be computed.
    pub prefill_tokens: usize,
    /// The same on one server whose cache forgets nothing.
    pub ideal_prefill_tokens: usize,
    /// The busiest server's prompt tokens computed, over the mean.
    pub prefill_balance: f64,
    /// The busiest server's requests, over the mean.
    pub request_balance: f64,
    /// Simulated seconds until the last answer.
    pub simulated_s: f64,
}

impl Outcome {
    /// Share of the ideal's prompt tokens that came from a cache.
    #[must_use]
    pub fn share_of_ideal_hits(&self) -> f64 {
        let hits = |prefill| (self.prompt_tokens - prefill) as f64;
        hits(self.prefill_tokens) / hits(self.ideal_prefill_tokens)
    }
}

/// One request: the identities of its whole blocks that others may share, and its further tokens.
struct Request {
    shared: Vec<u64>,
    tokens: usize,
}

/// One rollout, ready to be pushed.
struct Rollout {
    problem: usize,
    need: Need,
    requests: Vec<Request>,
}

/// Runs a load through a client and as many servers as `hardware` has.
#[must_use]
pub fn replay(load: &Load, layout: Layout, client: Client, hardware: Hardware) -> Outcome {
    let rollouts: Vec<Rollout> = load
        .order
        .iter()
        .map(|&(p, r)| rollout(load, layout, p, r, hardware.completion))
        .collect();
    let requests = || rollouts.iter().flat_map(|rollout| &rollout.requests);
    let prompt_tokens = requests().map(|request| request.tokens).sum();
    let distinct: HashSet<u64> = requests()
        .flat_map(|request| &request.shared)
        .copied()
        .collect();
    let unshared: usize = requests()
        .map(|request| request.tokens - request.shared.len() * BLOCK)
        .sum();
    let ideal_prefill_tokens = distinct.len() * BLOCK + unshared;
    let count = requests().count();

    let servers = run(load, rollouts, client, hardware);
    let balance = |of: fn(&Server) -> usize| {
        let total: usize = servers.iter().map(of).sum();
        let most = servers.iter().map(of).max().unwrap_or(0);
        (most * servers.len()) as f64 / total as f64
    };
    Outcome {
        requests: count,
        prompt_tokens,
        prefill_tokens: servers.iter().map(|server| server.prefilled).sum(),
        ideal_prefill_tokens,
        prefill_balance: balance(|server| server.prefilled),
        request_balance: balance(|server| server.requests),
        simulated_s: servers
            .iter()
            .map(|server| server.last_end)
            .fold(0.0, f64::max),
    }
}

fn rollout(load: &Load, layout: Layout, p: usize, r: usize, completion: usize) -> Rollout {
    let problem = &load.problems[p];
    let (head, after) = match layout {
        Layout::TraceLast => (
            load.rubric + problem.statement + problem.reference,
            load.instruction,
        ),
        Layout::ReferenceAfterTrace => (
            load.rubric + problem.statement,
            problem.reference + load.instruction,
        ),
        Layout::StepFirst => (
            0,
            load.rubric + problem.statement + problem.reference + load.instruction,
        ),
    };
    let mut trace = 0;
    let requests: Vec<Request> = problem.rollouts[r]
        .iter()
        .map(|step| {
            trace += step;
            let end = if layout == Layout::StepFirst {
                0
            } else {
                head + trace
            };
            // A block is shared by those who share every token up to its end.
            let block = |i: usize| match (i + 1) * BLOCK {
                end if end <= load.rubric => i as u64,
                end if end <= head => (1 + p as u64) << 32 | i as u64,
                _ => (1 << 60) | (p as u64) << 48 | (r as u64) << 32 | i as u64,
            };
            Request {
                shared: (0..end / BLOCK).map(block).collect(),
                tokens: head + trace + after,
            }
        })
        .collect();
    let own = trace + (after + completion) * requests.len();
    let need = Need {
        shared: head as u64,
        own: own as u64,
    };
    Rollout {
        problem: p,
        need,
        requests,
    }
}

/// What waits at the client, and which server it goes to.
enum Queue {
    Scheduler(Schedule<Request>),
    /// For each server its requests, all from the start, and how many of them are in flight.
    Lists(Vec<(VecDeque<Request>, usize)>),
}

impl Queue {
    /// A scheduler's queue is empty, and `rollouts` are still to be pushed.
    fn new(client: Client, rollouts: &mut VecDeque<Rollout>, hardware: Hardware) -> Self {
        if client != Client::Scheduler {
            return Self::Lists(lists(client, std::mem::take(rollouts), hardware.servers));
        }
        let seeds = (0..hardware.servers as u64).map(|i| hash(i ^ 0x5eed));
        let mut schedule = Schedule::new(seeds, hardware.concurrency);
        for lane in 0..hardware.servers {
            schedule.set_capacity(lane, Some((hardware.kv_blocks * BLOCK) as u64));
        }
        Self::Scheduler(schedule)
    }

    fn push(&mut self, rollout: Rollout, now: Instant) {
        if let Self::Scheduler(schedule) = self {
            let affinity = hash(rollout.problem as u64);
            schedule.push(affinity, rollout.need, rollout.requests, now);
        }
    }

    /// The next request, its server, and the scheduler's pass for it.
    fn next(&mut self, window: usize, now: Instant) -> Option<(usize, Option<Pass>, Request)> {
        match self {
            Self::Scheduler(schedule) => {
                let (pass, request) = schedule.next(now)?;
                Some((pass.lane, Some(pass), request))
            }
            Self::Lists(lists) => {
                let open = lists
                    .iter_mut()
                    .enumerate()
                    .find(|(_, (list, in_flight))| *in_flight < window && !list.is_empty());
                let (server, (list, in_flight)) = open?;
                *in_flight += 1;
                Some((server, None, list.pop_front()?))
            }
        }
    }

    fn answered(&mut self, server: usize, pass: Option<Pass>) {
        match (self, pass) {
            (Self::Scheduler(schedule), Some(pass)) => {
                schedule.answered(server);
                schedule.finish(pass);
            }
            (Self::Scheduler(_), None) => unreachable!("a scheduler gives passes"),
            (Self::Lists(lists), _) => lists[server].1 -= 1,
        }
    }
}

fn lists(
    client: Client,
    rollouts: VecDeque<Rollout>,
    servers: usize,
) -> Vec<(VecDeque<Request>, usize)> {
    let mut lists: Vec<Vec<(usize, Request)>> = (0..servers).map(|_| Vec::new()).collect();
    for (number, rollout) in rollouts.into_iter().enumerate() {
        let home = match client {
            Client::Hash => hash(rollout.problem as u64) as usize,
            _ => number,
        };
        for (step, request) in rollout.requests.into_iter().enumerate() {
            let turn = if client == Client::RoundRobin {
                step
            } else {
                0
            };
            lists[(home % servers + turn) % servers].push((step, request));
        }
    }
    if client == Client::StepMajor {
        for list in &mut lists {
            list.sort_by_key(|&(step, _)| step);
        }
    }
    let requests = |list: Vec<_>| list.into_iter().map(|(_, request)| request).collect();
    lists.into_iter().map(|list| (requests(list), 0)).collect()
}

/// What happens at a time; microseconds order it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Push,
    Answer { server: usize, number: usize },
}

fn run(load: &Load, rollouts: Vec<Rollout>, client: Client, hardware: Hardware) -> Vec<Server> {
    let start = Instant::now();
    let gap = 1e6 * load.over_s / rollouts.len() as f64;
    let mut events: BinaryHeap<Reverse<(u64, Event)>> = (0..rollouts.len())
        .map(|i| Reverse(((i as f64 * gap) as u64, Event::Push)))
        .collect();
    let mut rollouts = VecDeque::from(rollouts);
    let mut queue = Queue::new(client, &mut rollouts, hardware);
    let mut servers: Vec<Server> = (0..hardware.servers)
        .map(|_| Server::new(hardware))
        .collect();
    let mut passes = Vec::new();
    while let Some(Reverse((at, event))) = events.pop() {
        let now = start + Duration::from_micros(at);
        match event {
            Event::Push => {
                if let Some(rollout) = rollouts.pop_front() {
                    queue.push(rollout, now);
                }
                // What arrives at the same time is pushed before any of it leaves.
                if matches!(events.peek(), Some(Reverse((next, Event::Push))) if *next == at) {
                    continue;
                }
            }
            Event::Answer { server, number } => {
                servers[server].end(number, at as f64 / 1e6);
                queue.answered(server, passes[number]);
            }
        }
        while let Some((server, pass, request)) = queue.next(hardware.concurrency, now) {
            servers[server].arrive(passes.len(), request.shared, request.tokens);
            passes.push(pass);
        }
        for (server, state) in servers.iter_mut().enumerate() {
            for (number, end) in state.start(at as f64 / 1e6) {
                let event = Event::Answer { server, number };
                events.push(Reverse(((end * 1e6) as u64, event)));
            }
        }
    }
    servers
}

fn hash(number: u64) -> u64 {
    mix(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
