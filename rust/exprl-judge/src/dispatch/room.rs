//! The bound on the text that is queued. What is in flight is bounded by the servers' windows.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Text is measured in pieces of this many bytes.
const PIECE: usize = 1024;

pub(super) struct Room {
    pieces: Arc<Semaphore>,
    size: u32,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        let size = u32::try_from(bytes / PIECE).unwrap_or(u32::MAX >> 4).max(1);
        Self {
            pieces: Arc::new(Semaphore::new(size as usize)),
            size,
        }
    }

    /// Room for so many bytes, if there is some now.
    pub(super) fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let pieces = self.pieces(bytes);
        self.pieces.clone().try_acquire_many_owned(pieces).ok()
    }

    /// Room for so many bytes. Whoever had to wait gets it with a quarter of all room to spare, so that a
    /// caller that pushes faster than servers answer is not woken for every request.
    pub(super) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if let Some(room) = self.try_take(bytes) {
            return Some(room);
        }
        let pieces = self.pieces(bytes);
        let spare = (self.size / 4).min(self.size - pieces);
        let room = self.pieces.clone().acquire_many_owned(pieces + spare).await;
        // The semaphore is never closed, so there is always room in the end.
        let mut room = room.ok()?;
        drop(room.split(spare as usize));
        Some(room)
    }

    /// No text is too long for all the room there is.
    fn pieces(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(PIECE))
            .unwrap_or(u32::MAX)
            .clamp(1, self.size)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_text_longer_than_all_room_takes_all_of_it() {
        let room = Room::new(8 * PIECE);
        let all = room.try_take(100 * PIECE).unwrap();
        assert_eq!(all.num_permits(), 8);
        assert!(room.try_take(1).is_none());
        drop(all);
        assert!(room.try_take(1).is_some());
    }

    #[tokio::test]
    async fn who_waits_is_woken_when_a_quarter_is_free() {
        let room = Room::new(8 * PIECE);
        let mut held: Vec<_> = (0..8).map(|_| room.try_take(PIECE).unwrap()).collect();
        let mut waiting = std::pin::pin!(room.take(PIECE));
        for held_now in [8, 7] {
            held.truncate(held_now);
            let polled = timeout(Duration::ZERO, waiting.as_mut()).await;
            assert!(polled.is_err(), "woken with {held_now} of 8 held");
        }
        held.truncate(5);
        assert_eq!(waiting.await.unwrap().num_permits(), 1);
        assert!(room.try_take(2 * PIECE).is_some(), "the rest is given back");
    }
}
