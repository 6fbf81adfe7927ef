//! Which request goes to which server, and when. No clock and no sockets: time comes in as a value.
//!
//! The unit of scheduling is a rollout. Its requests (one per prefix) leave one lane back to back,
//! so that each finds its predecessor's prompt in that server's prefix cache. Rollouts of one
//! problem prefer one lane (rendezvous hashing), within a bound on the load (Mirrokni et al. 2016,
//! "Consistent Hashing with Bounded Loads"): only whole rollouts spill to the next lane.

use std::collections::VecDeque;
use std::time::Instant;

use crate::policy::Window;

/// No lane is handed more than this many times the mean load, rounded up, when a unit is placed.
const LOAD_BOUND: f64 = 1.25;

/// A rollout's requests that have not left yet, in the order of its prefixes.
struct Unit<R> {
    requests: VecDeque<R>,
    /// Some of its requests have left: the rest follows them to the same server.
    begun: bool,
}

/// One server's queue and what is known about its state.
struct Lane<R> {
    /// Rendezvous seed: a hash of the server's URL, so placement survives reordering of endpoints.
    seed: u64,
    queue: VecDeque<Unit<R>>,
    /// Requests queued here.
    queued: usize,
    in_flight: usize,
    window: Window,
    paused_until: Option<Instant>,
}

impl<R> Lane<R> {
    fn load(&self) -> usize {
        self.queued + self.in_flight
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    fn has_room(&self, now: Instant) -> bool {
        !self.is_paused(now) && self.in_flight < self.window.size()
    }

    fn pop(&mut self) -> Option<R> {
        let unit = self.queue.front_mut()?;
        let request = unit.requests.pop_front();
        unit.begun = true;
        if unit.requests.is_empty() {
            self.queue.pop_front();
        }
        self.queued -= usize::from(request.is_some());
        request
    }
}

/// The queues of all servers.
pub(crate) struct Schedule<R> {
    lanes: Vec<Lane<R>>,
}

impl<R> Schedule<R> {
    /// One lane per seed, each with at most `concurrency` requests in flight.
    pub(crate) fn new(seeds: impl IntoIterator<Item = u64>, concurrency: usize) -> Self {
        let lanes = seeds.into_iter().map(|seed| Lane {
            seed,
            queue: VecDeque::new(),
            queued: 0,
            in_flight: 0,
            window: Window::new(concurrency),
            paused_until: None,
        });
        Self {
            lanes: lanes.collect(),
        }
    }

    /// Queues one rollout's requests on the lane that `affinity` (a hash of its problem) prefers.
    pub(crate) fn push(&mut self, affinity: u64, requests: Vec<R>, now: Instant) -> usize {
        let lane = self.place(affinity, requests.len(), now);
        self.lanes[lane].queued += requests.len();
        self.lanes[lane].queue.push_back(Unit {
            requests: requests.into(),
            begun: false,
        });
        lane
    }

    /// Puts a request back at the front, on another lane than `avoid` if one is open.
    pub(crate) fn retry(&mut self, request: R, avoid: Option<usize>, now: Instant) {
        let lane = (0..self.lanes.len())
            .min_by_key(|&i| {
                (
                    self.lanes[i].is_paused(now),
                    Some(i) == avoid,
                    self.lanes[i].load(),
                )
            })
            .unwrap_or(0);
        self.lanes[lane].queued += 1;
        self.lanes[lane].queue.push_front(Unit {
            requests: [request].into(),
            begun: true,
        });
    }

    /// The next request that may leave, and its lane; it counts as in flight until `finish`.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(usize, R)> {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if lane.has_room(now)
                && let Some(request) = lane.pop()
            {
                lane.in_flight += 1;
                return Some((index, request));
            }
        }
        // Every lane with room is idle: let one of them take a whole rollout from the longest queue.
        let thief = (0..self.lanes.len()).find(|&i| self.lanes[i].has_room(now))?;
        let unit = self.steal(now)?;
        let lane = &mut self.lanes[thief];
        lane.queued += unit.requests.len();
        lane.queue.push_front(unit);
        lane.in_flight += 1;
        lane.pop().map(|request| (thief, request))
    }

    /// A request that left `lane` came back.
    pub(crate) fn finish(&mut self, lane: usize) {
        self.lanes[lane].in_flight -= 1;
    }

    /// The server answered: its window may grow, and a pause is over.
    pub(crate) fn answered(&mut self, lane: usize) {
        self.lanes[lane].window.grow();
    }

    /// The server asked for less (429) or is out of order: nothing leaves before `until`.
    /// Says whether this pause is a new one.
    pub(crate) fn pause(&mut self, lane: usize, until: Instant, now: Instant, probe: bool) -> bool {
        let lane = &mut self.lanes[lane];
        let new = !lane.is_paused(now);
        // A burst of 429 answers to one window is one signal, not one per request.
        if new {
            lane.window.shrink(probe);
        }
        lane.paused_until = lane.paused_until.max(Some(until));
        new
    }

    pub(crate) fn is_paused(&self, lane: usize, now: Instant) -> bool {
        self.lanes[lane].is_paused(now)
    }

    /// Takes out every queued request that `matches`.
    pub(crate) fn drain(&mut self, matches: impl Fn(&R) -> bool) -> Vec<R> {
        let mut taken = Vec::new();
        for lane in &mut self.lanes {
            for unit in &mut lane.queue {
                let (out, keep) = unit
                    .requests
                    .drain(..)
                    .partition(|request| matches(request));
                unit.requests = keep;
                taken.extend::<VecDeque<R>>(out);
            }
            lane.queue.retain(|unit| !unit.requests.is_empty());
            lane.queued = lane.queue.iter().map(|unit| unit.requests.len()).sum();
        }
        taken
    }

    /// Requests that left and have not come back, over all lanes.
    pub(crate) fn in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.in_flight).sum()
    }

    /// The first lane in the affinity's order whose load stays within the bound.
    fn place(&self, affinity: u64, size: usize, now: Instant) -> usize {
        let any_open = self.lanes.iter().any(|lane| !lane.is_paused(now));
        let mut open: Vec<usize> = (0..self.lanes.len())
            .filter(|&i| !any_open || !self.lanes[i].is_paused(now))
            .collect();
        open.sort_by_cached_key(|&i| std::cmp::Reverse(mix(affinity ^ self.lanes[i].seed)));
        let total: usize = open.iter().map(|&i| self.lanes[i].load()).sum();
        let bound = (LOAD_BOUND * (total + size) as f64 / open.len() as f64).ceil() as usize;
        let fits = open
            .iter()
            .copied()
            .find(|&i| self.lanes[i].load() + size <= bound);
        let least = || open.iter().copied().min_by_key(|&i| self.lanes[i].load());
        fits.or_else(least).unwrap_or(0)
    }

    /// A rollout from the back of the longest queue; from a paused lane also one that has begun.
    fn steal(&mut self, now: Instant) -> Option<Unit<R>> {
        let victim = self
            .lanes
            .iter_mut()
            .filter(|lane| {
                lane.queue
                    .back()
                    .is_some_and(|unit| !unit.begun || lane.is_paused(now))
            })
            .max_by_key(|lane| lane.queued)?;
        let unit = victim.queue.pop_back()?;
        victim.queued -= unit.requests.len();
        Some(unit)
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014): spreads one bit over all 64.
fn mix(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn seeds(count: usize) -> impl Iterator<Item = u64> {
        (0..count as u64).map(|i| mix(i + 1))
    }

    fn opened(count: usize, concurrency: usize) -> Schedule<(usize, usize)> {
        let mut schedule = Schedule::new(seeds(count), concurrency);
        for lane in &mut schedule.lanes {
            lane.window = Window::opened(concurrency);
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
                loads[schedule.push(problem, requests, now)] += size;
                let largest = units.iter().map(|unit| unit.1).max().unwrap_or(0) as f64;
                let mean = loads.iter().sum::<usize>() as f64 / lanes as f64;
                let most = *loads.iter().max().unwrap() as f64;
                prop_assert!(most <= (LOAD_BOUND * mean).ceil() + largest, "{loads:?}");
            }
            let mut seen = BTreeSet::new();
            while let Some((lane, request)) = schedule.next(now) {
                prop_assert!(seen.insert(request), "{request:?} left twice");
                schedule.finish(lane);
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
                schedule.push(problem, (0..size).map(|step| (index, step)).collect(), now);
            }
            let mut home = std::collections::HashMap::new();
            let mut flying = VecDeque::new();
            loop {
                while let Some((lane, (unit, step))) = schedule.next(now) {
                    let (server, next) = *home.entry(unit).or_insert((lane, 0));
                    prop_assert_eq!((server, next), (lane, step));
                    home.insert(unit, (lane, step + 1));
                    flying.push_back(lane);
                }
                match flying.pop_front() {
                    Some(lane) => schedule.finish(lane),
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
                    .map(|r| schedule.push(mix(problem), vec![(r, 0)], now))
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
            schedule.push(unit, vec![(unit as usize, 0)], now);
        }
        schedule.pause(0, now + Duration::from_secs(5), now, false);
        let mut served = 0;
        while let Some((lane, _)) = schedule.next(now) {
            assert_eq!(lane, 1);
            schedule.finish(lane);
            served += 1;
        }
        assert_eq!(served, 8);
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        let now = Instant::now();
        let mut schedule = opened(1, 3);
        schedule.push(0, (0..9).map(|step| (0, step)).collect(), now);
        assert_eq!(std::iter::from_fn(|| schedule.next(now)).count(), 3);
        schedule.finish(0);
        assert_eq!(std::iter::from_fn(|| schedule.next(now)).count(), 1);
    }

    #[test]
    fn a_retry_goes_first_and_elsewhere() {
        let now = Instant::now();
        let mut schedule = opened(2, 8);
        schedule.push(0, vec![(0, 0)], now);
        schedule.push(1, vec![(1, 0)], now);
        schedule.retry((9, 9), Some(0), now);
        let left: Vec<_> = std::iter::from_fn(|| schedule.next(now)).collect();
        assert!(left.contains(&(1, (9, 9))));
    }

    #[test]
    fn draining_takes_only_what_matches() {
        let now = Instant::now();
        let mut schedule = opened(2, 1);
        for unit in 0..6 {
            schedule.push(unit, vec![(unit as usize, 0), (unit as usize, 1)], now);
        }
        assert_eq!(schedule.drain(|&(unit, _)| unit % 2 == 0).len(), 6);
        let mut left = 0;
        while let Some((lane, (unit, _))) = schedule.next(now) {
            assert_eq!(unit % 2, 1);
            schedule.finish(lane);
            left += 1;
        }
        assert_eq!(left, 6);
    }
}
