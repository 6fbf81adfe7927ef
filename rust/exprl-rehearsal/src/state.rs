//! What all connections of a server share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::config::Config;
use crate::stats::Book;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) slots: Option<Semaphore>,
    book: Mutex<Book>,
}

impl State {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            slots: config
                .slots
                .map(|slots| Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS))),
            config,
            book: Mutex::default(),
        }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        // Counts are whole at every step, so a panic elsewhere does not spoil them.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
