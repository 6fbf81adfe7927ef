//! Which request goes to which server, and when. No clock and no sockets: time comes in as a value.
//!
//! The unit of scheduling is a rollout. Its requests (one per prefix) leave one lane back to back,
//! so that each finds its predecessor's prompt in that server's prefix cache. Rollouts of one
//! problem stand together and prefer one lane (rendezvous hashing), within a bound on the load
//! (Mirrokni et al. 2016, "Consistent Hashing with Bounded Loads"): only whole rollouts spill to the
//! next lane. A rollout leaves the queue when the server's KV cache has room for all of it, so that
//! those being judged do not evict each other.

mod lane;
#[cfg(test)]
mod tests;

use std::time::Instant;

use lane::{Lane, Unit};

pub use lane::Need;

/// No lane is handed more than this many times the mean load when a rollout is placed.
const LOAD_BOUND: f64 = 1.25;

/// A place in a server's window, from `next` or `spare` until `finish`.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// The number of the server.
    pub lane: usize,
    /// Its rollout's number there; none for a hedge.
    rollout: Option<u64>,
}

/// What a lane looks like from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneState {
    pub(crate) queued: usize,
    pub(crate) in_flight: usize,
    pub(crate) window: usize,
    pub(crate) paused: bool,
    /// Tokens of the rollouts being judged, and that fit the KV cache.
    pub(crate) held: u64,
    pub(crate) capacity: Option<u64>,
}

/// The queues of all servers.
pub struct Schedule<R> {
    lanes: Vec<Lane<R>>,
}

impl<R> Schedule<R> {
    /// One lane per seed, each with at most `concurrency` requests in flight.
    pub fn new(seeds: impl IntoIterator<Item = u64>, concurrency: usize) -> Self {
        let lanes = seeds.into_iter().map(|seed| Lane::new(seed, concurrency));
        Self {
            lanes: lanes.collect(),
        }
    }

    /// So many tokens fit a server's KV cache; `None` if that is not known.
    pub fn set_capacity(&mut self, lane: usize, tokens: Option<u64>) {
        self.lanes[lane].capacity = tokens;
    }

    /// Queues one rollout's requests on the lane that `affinity` (a hash of its problem) prefers.
    pub fn push(&mut self, affinity: u64, need: Need, requests: Vec<R>, now: Instant) -> usize {
        let lane = self.place(affinity, need, now);
        self.lanes[lane].push(Unit::new(affinity, need, requests));
        lane
    }

    /// Puts a request back at the front, on another lane than `avoid` if one is open.
    pub(crate) fn retry(&mut self, request: R, tokens: u64, avoid: Option<usize>, now: Instant) {
        let lane = (0..self.lanes.len())
            .min_by_key(|&i| {
                (
                    self.lanes[i].is_paused(now),
                    Some(i) == avoid,
                    self.lanes[i].load(),
                )
            })
            .unwrap_or(0);
        let need = Need {
            shared: 0,
            own: tokens,
        };
        self.lanes[lane].push_first(Unit::new(0, need, [request]));
    }

    /// The next request that may leave; it counts as in flight until `finish`.
    pub fn next(&mut self, now: Instant) -> Option<(Pass, R)> {
        (0..self.lanes.len()).find_map(|lane| {
            if !self.lanes[lane].has_room(now) {
                return None;
            }
            if self.lanes[lane].queued == 0 {
                // Idle: let it take a whole rollout from the longest queue.
                self.steal(lane, now);
            }
            let (rollout, request) = self.lanes[lane].pop()?;
            let rollout = Some(rollout);
            Some((Pass { lane, rollout }, request))
        })
    }

    /// A place for a second copy of a request, on another lane than `avoid`.
    pub(crate) fn spare(&mut self, avoid: usize, now: Instant) -> Option<Pass> {
        let open = |&i: &usize| i != avoid && self.lanes[i].has_room(now);
        let lane = (0..self.lanes.len())
            .filter(open)
            .min_by_key(|&i| self.lanes[i].load())?;
        self.lanes[lane].in_flight += 1;
        Some(Pass {
            lane,
            rollout: None,
        })
    }

    /// A place for a second copy of a request that hangs, on its own lane: beside the window, in which
    /// what hangs may take the last place.
    pub(crate) fn again(&mut self, lane: usize, now: Instant) -> Option<Pass> {
        if self.lanes[lane].is_paused(now) {
            return None;
        }
        self.lanes[lane].in_flight += 1;
        Some(Pass {
            lane,
            rollout: None,
        })
    }

    /// What left with this pass came back.
    pub fn finish(&mut self, pass: Pass) {
        let lane = &mut self.lanes[pass.lane];
        lane.in_flight -= 1;
        if let Some(rollout) = pass.rollout {
            lane.release(rollout);
        }
    }

    /// The server answered: its window may grow.
    pub fn answered(&mut self, lane: usize) {
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
        let lanes = self.lanes.iter_mut();
        lanes.flat_map(|lane| lane.drain(&matches)).collect()
    }

    /// Nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.queued == 0)
    }

    /// Requests that left and have not come back, over all lanes.
    pub(crate) fn in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.in_flight).sum()
    }

    pub(crate) fn state(&self, lane: usize, now: Instant) -> LaneState {
        let lane = &self.lanes[lane];
        LaneState {
            queued: lane.queued,
            in_flight: lane.in_flight,
            window: lane.window.size(),
            paused: lane.is_paused(now),
            held: lane.held,
            capacity: lane.capacity,
        }
    }

    /// The first lane in the affinity's order whose load stays within the bound.
    fn place(&self, affinity: u64, need: Need, now: Instant) -> usize {
        if self.lanes.len() == 1 {
            return 0;
        }
        let any_open = self.lanes.iter().any(|lane| !lane.is_paused(now));
        let mut open: Vec<usize> = (0..self.lanes.len())
            .filter(|&i| !any_open || !self.lanes[i].is_paused(now))
            .collect();
        open.sort_by_cached_key(|&i| std::cmp::Reverse(mix(affinity ^ self.lanes[i].seed)));
        let size = need.own + need.shared;
        let total: u64 = open.iter().map(|&i| self.lanes[i].load()).sum();
        let bound = (LOAD_BOUND * (total + size) as f64 / open.len() as f64).ceil() as u64;
        let fits = open
            .iter()
            .copied()
            .find(|&i| self.lanes[i].load() + size <= bound);
        let least = || open.iter().copied().min_by_key(|&i| self.lanes[i].load());
        fits.or_else(least).unwrap_or(0)
    }

    /// Moves the last rollout of the longest queue to `thief`, if it has room for it.
    fn steal(&mut self, thief: usize, now: Instant) {
        let longest = (0..self.lanes.len())
            .filter(|&i| i != thief && self.lanes[i].last(now).is_some())
            .max_by_key(|&i| self.lanes[i].queued);
        let Some(victim) = longest else { return };
        let fits = self.lanes[victim]
            .last(now)
            .is_some_and(|unit| self.lanes[thief].fits(unit.affinity, unit.need));
        if fits && let Some(unit) = self.lanes[victim].give_up(now) {
            self.lanes[thief].push(unit);
        }
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014): spreads one bit over all 64.
#[must_use]
pub fn mix(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
