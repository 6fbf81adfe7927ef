//! Requests queued or in flight by key, with the equal ones that wait for their answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::call::Call;
use crate::job_state::JobState;
use crate::ledger::Key;

/// A request that waits for an equal one in flight.
pub(super) struct Follower {
    pub(super) call: Call,
    pub(super) affinity: u64,
}

#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Vec<Follower>>>);

impl Flights {
    /// Gives the request back if it is the first of its key; otherwise it waits for the first one's answer.
    pub(super) fn join(&self, call: Call, affinity: u64) -> Option<Call> {
        match self.lock().entry(call.key) {
            Entry::Occupied(mut flight) => {
                flight.get_mut().push(Follower { call, affinity });
                None
            }
            Entry::Vacant(flight) => {
                flight.insert(Vec::new());
                Some(call)
            }
        }
    }

    /// The first one has ended: gives those that wait for it.
    pub(super) fn end(&self, key: &Key) -> Vec<Follower> {
        self.lock().remove(key).unwrap_or_default()
    }

    /// Takes out what a job has waiting.
    pub(super) fn withdraw(&self, job: &Arc<JobState>) -> Vec<Call> {
        let mut flights = self.lock();
        let its = |follower: &mut Follower| Arc::ptr_eq(&follower.call.ticket.job, job);
        let all = flights.values_mut();
        all.flat_map(|followers| followers.extract_if(.., its))
            .map(|follower| follower.call)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Follower>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::{calls, job};
    use super::*;

    #[test]
    fn equal_requests_wait_for_the_first_one() {
        let (flights, job) = (Flights::default(), job());
        let mut three: Vec<_> = (0..3).flat_map(|_| calls(&job, &["a trace"])).collect();
        let first = flights.join(three.remove(0), 7).unwrap();
        assert!(flights.join(three.remove(0), 7).is_none());
        let other = calls(&job, &["another trace"]).remove(0);
        assert!(flights.join(other, 7).is_some());
        assert_eq!(flights.end(&first.key).len(), 1);
        assert!(flights.join(three.remove(0), 7).is_some(), "it is gone");
    }

    #[test]
    fn a_withdrawn_job_leaves_the_others_waiting() {
        let (flights, stays, leaves) = (Flights::default(), job(), job());
        let first = calls(&stays, &["a trace"]).remove(0);
        let first = flights.join(first, 7).unwrap();
        for job in [&leaves, &stays, &leaves] {
            assert!(
                flights
                    .join(calls(job, &["a trace"]).remove(0), 7)
                    .is_none()
            );
        }
        assert_eq!(flights.withdraw(&leaves).len(), 2);
        let left = flights.end(&first.key);
        assert_eq!(left.len(), 1);
        assert!(Arc::ptr_eq(&left[0].call.ticket.job, &stays));
    }
}
