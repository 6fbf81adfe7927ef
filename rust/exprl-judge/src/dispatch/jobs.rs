//! The jobs whose owners still hold them.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::job_state::JobState;

pub(super) struct Jobs {
    /// How long a job may take.
    deadline: Duration,
    open: Mutex<Vec<Weak<JobState>>>,
}

impl Jobs {
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            open: Mutex::default(),
        }
    }

    /// Starts a job's clock.
    pub(super) fn open(&self) -> Arc<JobState> {
        let job = Arc::new(JobState::new(Instant::now() + self.deadline));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|job| job.strong_count() > 0);
        open.push(Arc::downgrade(&job));
        job
    }

    /// Forgets all jobs; gives those that somebody holds.
    pub(super) fn take(&self) -> Vec<Arc<JobState>> {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.iter().filter_map(Weak::upgrade).collect()
    }
}
