//! The bytes of an answer on their way: at once or at a pace, whole or ending badly.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::state::State;

/// What is written gets so long to leave before the connection breaks.
const FLUSH: Duration = Duration::from_millis(5);

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Whole,
    /// Half-way, with the connection.
    Cut,
    /// Half-way, and the connection stays open.
    Stall,
}

/// Counts a request as being answered until it is dropped.
pub(crate) struct Presence {
    state: Arc<State>,
    answered: bool,
}

impl Presence {
    pub(crate) fn new(state: Arc<State>) -> Self {
        let mut book = state.book();
        book.stats.requests += 1;
        book.stats.in_flight += 1;
        book.stats.most_in_flight = book.stats.most_in_flight.max(book.stats.in_flight);
        drop(book);
        Self {
            state,
            answered: false,
        }
    }
}

impl Presence {
    /// Ends with a short answer.
    pub(crate) fn answer<T>(mut self, answer: T) -> T {
        self.answered = true;
        answer
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut book = self.state.book();
        book.stats.in_flight -= 1;
        book.stats.abandoned += u64::from(!self.answered);
    }
}

/// An answer's pieces. It keeps its request's presence until the last one is handed over.
pub(crate) struct Pieces {
    left: VecDeque<Bytes>,
    pace: Duration,
    /// Until the next piece is due; `None` if it is due now.
    wait: Option<Pin<Box<Sleep>>>,
    end: End,
    /// What a client is promised; an unknown length is sent in chunks.
    length: Option<u64>,
    presence: Option<Presence>,
}

impl Pieces {
    /// One piece.
    pub(crate) fn whole(text: String, end: End, presence: Presence) -> Self {
        let length = Some(text.len() as u64);
        let mut bytes = Bytes::from(text);
        if end != End::Whole {
            bytes.truncate(bytes.len() / 2);
        }
        Self {
            length,
            ..Self::new([bytes].into(), Duration::ZERO, end, presence)
        }
    }

    /// Server-sent events, one every `pace`.
    pub(crate) fn events(
        events: Vec<String>,
        pace: Duration,
        end: End,
        presence: Presence,
    ) -> Self {
        let keep = if end == End::Whole {
            events.len()
        } else {
            events.len() / 2
        };
        let kept = events.into_iter().take(keep);
        let pieces = if pace.is_zero() {
            [kept.collect::<String>().into()].into()
        } else {
            kept.map(Bytes::from).collect()
        };
        Self::new(pieces, pace, end, presence)
    }

    fn new(pieces: VecDeque<Bytes>, pace: Duration, end: End, presence: Presence) -> Self {
        Self {
            left: pieces,
            pace,
            wait: None,
            end,
            length: None,
            presence: Some(presence),
        }
    }

    /// The answer is over for the server, or will never be.
    fn finish(&mut self) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.end == End::Stall {
            // The connection's end drops this, and with it the presence.
            return Poll::Pending;
        }
        if let Some(mut presence) = self.presence.take() {
            presence.answered = true;
        }
        match self.end {
            End::Cut => Poll::Ready(Some(Err(io::Error::other("rehearsed: the answer is cut")))),
            End::Whole | End::Stall => Poll::Ready(None),
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(wait) = &mut self.wait {
            std::task::ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        let Some(piece) = self.left.pop_front() else {
            return self.finish();
        };
        let mut pause = self.pace;
        if self.end == End::Cut && self.left.is_empty() {
            pause = pause.max(FLUSH);
        }
        if !pause.is_zero() {
            self.wait = Some(Box::pin(tokio::time::sleep(pause)));
        }
        if self.is_end_stream() {
            // The server asks for no more after the last piece of a known length.
            let _ = self.finish();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.end == End::Whole && self.length.is_some() && self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
