use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn seeds(count: usize) -> impl Iterator<Item = u64> {
    (0..count as u64).map(|i| mix(i + 1))
}

fn need(own: usize) -> Need {
    Need {
        shared: 0,
        own: own as u64,
    }
}

fn opened(count: usize, concurrency: usize) -> Schedule<(usize, usize)> {
    let mut schedule = Schedule::new(seeds(count), concurrency);
    for lane in &mut schedule.lanes {
        lane.window = crate::policy::Window::opened(concurrency);
    }
    schedule
}

proptest! {
    #[test]
    fn every_request_leaves_exactly_once_and_loads_stay_bounded(
        lanes in 1_usize..6,
        units in prop::collection::vec((0_u64..8, 1_usize..12), 1..80),
    ) {
        let now = Instant::now();
        let mut schedule = opened(lanes, 4);
        let mut loads = vec![0_usize; lanes];
        for (index, &(problem, size)) in units.iter().enumerate() {
            let requests = (0..size).map(|step| (index, step)).collect();
            loads[schedule.push(problem, need(size), requests, now)] += size;
            let largest = units.iter().map(|unit| unit.1).max().unwrap_or(0) as f64;
            let mean = loads.iter().sum::<usize>() as f64 / lanes as f64;
            let most = *loads.iter().max().unwrap() as f64;
            prop_assert!(most <= (LOAD_BOUND * mean).ceil() + largest, "{loads:?}");
        }
        let mut seen = BTreeSet::new();
        while let Some((pass, request)) = schedule.next(now) {
            prop_assert!(seen.insert(request), "{request:?} left twice");
            schedule.finish(pass);
        }
        prop_assert_eq!(seen.len(), units.iter().map(|unit| unit.1).sum::<usize>());
        prop_assert_eq!(schedule.in_flight(), 0);
    }

    #[test]
    fn a_rollout_never_changes_its_server_half_way(
        lanes in 1_usize..5,
        units in prop::collection::vec((0_u64..4, 1_usize..9), 1..40),
        concurrency in 1_usize..9,
    ) {
        let now = Instant::now();
        let mut schedule = opened(lanes, concurrency);
        for (index, &(problem, size)) in units.iter().enumerate() {
            schedule.push(problem, need(size), (0..size).map(|step| (index, step)).collect(), now);
        }
        let mut home = std::collections::HashMap::new();
        let mut flying = VecDeque::new();
        loop {
            while let Some((pass, (unit, step))) = schedule.next(now) {
                let lane = pass.lane;
                let (server, next) = *home.entry(unit).or_insert((lane, 0));
                prop_assert_eq!((server, next), (lane, step));
                home.insert(unit, (lane, step + 1));
                flying.push_back(pass);
            }
            match flying.pop_front() {
                Some(pass) => schedule.finish(pass),
                None => break,
            }
        }
    }
}

#[test]
fn rollouts_of_one_problem_share_a_server_while_the_load_allows() {
    let now = Instant::now();
    let mut schedule = opened(4, 64);
    let homes: Vec<BTreeSet<usize>> = (0..64_u64)
        .map(|problem| {
            (0..8)
                .map(|r| schedule.push(mix(problem), need(1), vec![(r, 0)], now))
                .collect()
        })
        .collect();
    let alone = homes.iter().filter(|lanes| lanes.len() == 1).count();
    assert!(
        alone >= 40,
        "only {alone} of 64 problems stayed on one server"
    );
}

#[test]
fn a_paused_server_gets_nothing_and_its_queue_moves_on() {
    let now = Instant::now();
    let mut schedule = opened(2, 2);
    for unit in 0..8 {
        schedule.push(unit, need(1), vec![(unit as usize, 0)], now);
    }
    schedule.pause(0, now + Duration::from_secs(5), now, false);
    let mut served = 0;
    while let Some((pass, _)) = schedule.next(now) {
        assert_eq!(pass.lane, 1);
        schedule.finish(pass);
        served += 1;
    }
    assert_eq!(served, 8);
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let now = Instant::now();
    let mut schedule = opened(1, 3);
    schedule.push(0, need(9), (0..9).map(|step| (0, step)).collect(), now);
    let left: Vec<_> = std::iter::from_fn(|| schedule.next(now)).collect();
    assert_eq!(left.len(), 3);
    schedule.finish(left[0].0);
    assert_eq!(std::iter::from_fn(|| schedule.next(now)).count(), 1);
}

#[test]
fn a_retry_goes_first_and_elsewhere() {
    let now = Instant::now();
    let mut schedule = opened(2, 8);
    schedule.push(0, need(1), vec![(0, 0)], now);
    schedule.push(1, need(1), vec![(1, 0)], now);
    schedule.retry((9, 9), 1, Some(0), now);
    let left: Vec<_> = std::iter::from_fn(|| schedule.next(now)).collect();
    assert!(
        left.iter()
            .any(|&(pass, request)| pass.lane == 1 && request == (9, 9))
    );
}

#[test]
fn draining_takes_only_what_matches() {
    let now = Instant::now();
    let mut schedule = opened(2, 1);
    for unit in 0..6 {
        schedule.push(
            unit,
            need(2),
            vec![(unit as usize, 0), (unit as usize, 1)],
            now,
        );
    }
    assert_eq!(schedule.drain(|&(unit, _)| unit % 2 == 0).len(), 6);
    let mut left = 0;
    while let Some((pass, (unit, _))) = schedule.next(now) {
        assert_eq!(unit % 2, 1);
        schedule.finish(pass);
        left += 1;
    }
    assert_eq!(left, 6);
}

proptest! {
    #[test]
    fn what_is_judged_at_once_fits_the_cache_and_leaves_whole(
        capacity in 5_u64..60,
        units in prop::collection::vec((0_u64..4, 1_usize..6, 1_u64..20), 1..40),
    ) {
        let now = Instant::now();
        let mut schedule = opened(2, 64);
        for lane in 0..2 {
            schedule.set_capacity(lane, Some(capacity));
        }
        for (index, &(problem, size, own)) in units.iter().enumerate() {
            let requests = (0..size).map(|step| (index, step)).collect();
            schedule.push(problem, Need { shared: 3, own }, requests, now);
        }
        let mut flying: Vec<Vec<(Pass, usize)>> = vec![Vec::new(); 2];
        let mut seen = 0;
        loop {
            while let Some((pass, (unit, _))) = schedule.next(now) {
                flying[pass.lane].push((pass, unit));
                seen += 1;
            }
            for lane in &flying {
                let rollouts: BTreeSet<usize> = lane.iter().map(|&(_, unit)| unit).collect();
                let problems: BTreeSet<u64> = rollouts.iter().map(|&unit| units[unit].0).collect();
                let held = rollouts.iter().map(|&unit| units[unit].2).sum::<u64>() + 3 * problems.len() as u64;
                prop_assert!(held <= capacity || rollouts.len() == 1, "{held} of {capacity}");
            }
            // A random one comes back.
            let Some(lane) = (0..2).find(|&lane| !flying[lane].is_empty()) else { break };
            let index = seen % flying[lane].len();
            let (pass, _) = flying[lane].swap_remove(index);
            schedule.finish(pass);
        }
        prop_assert_eq!(seen, units.iter().map(|unit| unit.1).sum::<usize>());
        prop_assert!(schedule.lanes.iter().all(|lane| lane.load() == 0 && lane.queued == 0));
    }

    #[test]
    fn draining_and_pausing_lose_nothing_and_leave_nothing_behind(
        units in prop::collection::vec((0_u64..4, 1_usize..6), 1..40),
        leave_first in 0_usize..30,
    ) {
        let now = Instant::now();
        let mut schedule = opened(3, 5);
        for (index, &(problem, size)) in units.iter().enumerate() {
            let requests = (0..size).map(|step| (index, step)).collect();
            schedule.push(problem, need(size), requests, now);
        }
        let mut flying: Vec<_> =
            std::iter::from_fn(|| schedule.next(now)).take(leave_first).collect();
        schedule.pause(0, now + Duration::from_secs(1), now, false);
        let drained = schedule.drain(|&(unit, _)| unit % 3 == 0).len();
        let mut left = 0;
        loop {
            flying.extend(std::iter::from_fn(|| schedule.next(now)));
            let Some((pass, _)) = flying.pop() else { break };
            schedule.finish(pass);
            left += 1;
        }
        prop_assert_eq!(left + drained, units.iter().map(|unit| unit.1).sum::<usize>());
        prop_assert!(schedule.lanes.iter().all(|lane| lane.load() == 0 && lane.queued == 0));
    }
}

#[test]
fn rollouts_of_one_problem_leave_one_after_another() {
    let now = Instant::now();
    let mut schedule = opened(1, 64);
    for rollout in 0..4 {
        for problem in 0..3 {
            schedule.push(problem as u64, need(1), vec![(problem, rollout)], now);
        }
    }
    let order: Vec<_> = std::iter::from_fn(|| schedule.next(now))
        .map(|(_, r)| r)
        .collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(order, sorted);
}

#[test]
fn after_a_breakers_rest_one_request_probes() {
    let now = Instant::now();
    let mut schedule = opened(1, 8);
    schedule.push(0, need(9), (0..9).map(|step| (0, step)).collect(), now);
    let later = now + Duration::from_secs(1);
    schedule.pause(0, later, now, true);
    assert!(schedule.next(now).is_none());
    let (probe, _) = schedule.next(later).unwrap();
    assert!(schedule.next(later).is_none(), "half-open: one request");
    schedule.answered(0);
    schedule.finish(probe);
    let after: Vec<_> = std::iter::from_fn(|| schedule.next(later)).collect();
    assert_eq!(after.len(), 2, "the window grows again");
}

#[test]
fn a_spare_place_is_on_another_open_server() {
    let now = Instant::now();
    let mut schedule = opened(2, 1);
    let spare = schedule.spare(0, now).unwrap();
    assert_eq!(spare.lane, 1);
    assert!(schedule.spare(0, now).is_none(), "its window is full");
    schedule.finish(spare);
    schedule.pause(1, now + Duration::from_secs(1), now, false);
    assert!(schedule.spare(0, now).is_none(), "it is paused");
    assert!(
        opened(1, 8).spare(0, now).is_none(),
        "there is one server only"
    );
}
