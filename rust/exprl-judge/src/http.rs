//! One HTTP/1.1 connection, as a client uses it (RFC 9112): a request, its reply, the next request.
//!
//! The task that waits for the reply moves the bytes itself: with a task per connection and channels
//! between them, as hyper has it, a request costs more time (docs/project/decisions.md). What a server
//! sends is bounded and checked; a connection whose end of reply is in doubt is not used again.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A head that is longer, or has more headers, is refused.
const LONGEST_HEAD: usize = 32 << 10;
const MOST_HEADERS: usize = 100;
/// A line between chunks that is longer is refused.
const LONGEST_LINE: usize = 4 << 10;
/// Read at once, at least.
const READ: usize = 4 << 10;

/// What went wrong on a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// It ended before the first byte of the reply.
    #[error("the server closed the connection without a reply")]
    Closed,
    /// It ended, or failed, within a reply.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is not an HTTP/1.1 reply, or longer than allowed.
    #[error("{0}")]
    Wrong(String),
}

/// The head of a reply.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) event_stream: bool,
    /// The headers that tell when to come again; others are not kept.
    pub(crate) hints: HeaderMap,
}

/// Where the body of the current reply ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// So many bytes are to come.
    Length(u64),
    /// So many bytes of the chunk are to come.
    Chunk(u64),
    /// A line with a chunk's size comes next, or the empty line after a chunk and then that line.
    ChunkSize {
        after_chunk: bool,
    },
    Trailers,
    /// Where the connection ends.
    UntilClosed,
    Done,
}

/// A connection over `S`, a TCP or TLS stream.
pub(crate) struct Connection<S> {
    stream: S,
    /// Received, and not used yet.
    buffer: BytesMut,
    body: Body,
    keep_alive: bool,
    /// It has carried a whole exchange before.
    pub(crate) reused: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: BytesMut::with_capacity(READ),
            body: Body::Done,
            keep_alive: true,
            reused: false,
        }
    }

    /// Whether the reply has been read to its end and another request may follow.
    pub(crate) fn is_reusable(&self) -> bool {
        self.keep_alive && self.body == Body::Done && self.buffer.is_empty()
    }

    /// Whether the server has neither closed the idle connection nor sent anything on it.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream)
            .poll_read(&mut context, &mut read)
            .is_pending()
    }

    /// Sends the pieces of a request. Returns early if the reply begins before all is sent: such a
    /// connection is not used again.
    pub(crate) async fn send<const N: usize>(&mut self, pieces: [&[u8]; N]) -> io::Result<()> {
        let mut slices = pieces.map(IoSlice::new);
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        poll_fn(|context| {
            while !left.is_empty() {
                match Pin::new(&mut self.stream).poll_write_vectored(context, left) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    Poll::Ready(Ok(written)) => IoSlice::advance_slices(&mut left, written),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        let began = poll_fill(&mut self.stream, &mut self.buffer, context);
                        if began.is_pending() {
                            return Poll::Pending;
                        }
                        self.keep_alive = false;
                        return began.map_ok(|_| ());
                    }
                }
            }
            Pin::new(&mut self.stream).poll_flush(context)
        })
        .await
    }

    /// Reads the head of the reply; interim ones (1xx) are passed over.
    pub(crate) async fn head(&mut self) -> Result<Head, HttpError> {
        loop {
            while let Some((head, length)) = self.parse_head()? {
                self.buffer.advance(length);
                if !head.status.is_informational() {
                    return Ok(head);
                }
            }
            if self.buffer.len() > LONGEST_HEAD {
                return wrong(format!("its head is longer than {LONGEST_HEAD} bytes"));
            }
            let nothing_yet = self.buffer.is_empty();
            match self.fill().await {
                Ok(()) => {}
                Err(_) if nothing_yet => return Err(HttpError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            match self.body {
                Body::Done => return Ok(None),
                Body::Length(0) => self.body = Body::Done,
                Body::Length(left) => {
                    let piece = self.take(left).await?;
                    self.body = Body::Length(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Body::Chunk(left) => {
                    let piece = self.take(left).await?;
                    self.body = match left - piece.len() as u64 {
                        0 => Body::ChunkSize { after_chunk: true },
                        left => Body::Chunk(left),
                    };
                    return Ok(Some(piece));
                }
                Body::ChunkSize { after_chunk } => {
                    let line = self.line().await?;
                    self.body = match (after_chunk, &line[..]) {
                        (true, b"\r\n" | b"\n") => Body::ChunkSize { after_chunk: false },
                        (true, _) => return wrong("a chunk is longer than it says".into()),
                        (false, line) => match chunk_size(line)? {
                            0 => Body::Trailers,
                            size => Body::Chunk(size),
                        },
                    };
                }
                Body::Trailers => {
                    if matches!(&self.line().await?[..], b"\r\n" | b"\n") {
                        self.body = Body::Done;
                    }
                }
                Body::UntilClosed => match self.take(u64::MAX).await {
                    Ok(piece) => return Ok(Some(piece)),
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        self.body = Body::Done;
                    }
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    /// Up to `most` bytes, at least one.
    async fn take(&mut self, most: u64) -> io::Result<Bytes> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(self.buffer.split_to(most.min(self.buffer.len())).freeze())
    }

    async fn line(&mut self) -> Result<Bytes, HttpError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                return Ok(self.buffer.split_to(end + 1).freeze());
            }
            if self.buffer.len() > LONGEST_LINE {
                return wrong(format!(
                    "a line between chunks is longer than {LONGEST_LINE} bytes"
                ));
            }
            self.fill().await?;
        }
    }

    /// Receives something; the end of the connection is an error.
    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(READ);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection within the reply",
            )),
            _ => Ok(()),
        }
    }

    /// The head at the front of the buffer and its length, if it is whole; sets where the body ends.
    fn parse_head(&mut self) -> Result<Option<(Head, usize)>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let length = match parsed.parse(&self.buffer) {
            Ok(httparse::Status::Complete(length)) if length <= LONGEST_HEAD => length,
            Ok(httparse::Status::Complete(_)) => {
                return wrong(format!("its head is longer than {LONGEST_HEAD} bytes"));
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return wrong(format!("not an HTTP/1.1 reply: {error}")),
        };
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let Some(status) = status else {
            return wrong("a status outside of 100..=999".into());
        };
        let mut keep_alive = parsed.version == Some(1);
        let mut event_stream = false;
        let mut hints = HeaderMap::new();
        let mut body = Body::UntilClosed;
        for header in parsed.headers.iter() {
            let value = header.value.trim_ascii();
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let length = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                let Some(length) = length.map(Body::Length) else {
                    return wrong("a content-length that is no number".into());
                };
                match body {
                    Body::UntilClosed => body = length,
                    Body::Length(_) if body != length => {
                        return wrong("two different content-lengths".into());
                    }
                    // Chunks outweigh a length, and the connection is not to be trusted (6.3).
                    _ => keep_alive = keep_alive && body == length,
                }
            } else if is("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return wrong("a transfer-encoding that was not asked for".into());
                }
                keep_alive = keep_alive && body == Body::UntilClosed;
                body = Body::ChunkSize { after_chunk: false };
            } else if is("content-encoding") && !value.eq_ignore_ascii_case(b"identity") {
                return wrong("a content-encoding that was not asked for".into());
            } else if is("connection") {
                keep_alive = keep_alive && !has_token(value, b"close");
            } else if is("content-type") {
                let kind = value.split(|&byte| byte == b';').next().unwrap_or_default();
                event_stream = kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream");
            } else if is_hint(header.name) {
                let name = HeaderName::from_bytes(header.name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                    hints.insert(name, value);
                }
            }
        }
        if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            body = Body::Done;
        }
        if !status.is_informational() {
            self.keep_alive &= keep_alive && body != Body::UntilClosed;
            self.body = body;
        }
        let head = Head {
            status,
            event_stream,
            hints,
        };
        Ok(Some((head, length)))
    }
}

fn wrong<T>(reason: String) -> Result<T, HttpError> {
    Err(HttpError::Wrong(reason))
}

fn poll_fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut bytes = [0; READ];
    let mut read = ReadBuf::new(&mut bytes);
    std::task::ready!(Pin::new(stream).poll_read(context, &mut read))?;
    buffer.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

/// The number at the front of a chunk's first line; what follows a `;` means nothing here.
fn chunk_size(line: &[u8]) -> Result<u64, HttpError> {
    let number = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let number = std::str::from_utf8(number.trim_ascii()).unwrap_or_default();
    // A sign would pass as part of a number.
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return wrong("a chunk without a size".into());
    }
    u64::from_str_radix(number, 16)
        .map_err(|_| HttpError::Wrong("a chunk's size is no 64-bit number".into()))
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

fn is_hint(name: &str) -> bool {
    ["retry-after", "x-ratelimit-"].iter().any(|start| {
        name.get(..start.len())
            .is_some_and(|front| front.eq_ignore_ascii_case(start))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(work)
    }

    async fn read(connection: &mut Connection<DuplexStream>) -> Result<(u16, Vec<u8>), HttpError> {
        let head = connection.head().await?;
        let mut body = Vec::new();
        while let Some(piece) = connection.piece().await? {
            body.extend_from_slice(&piece);
        }
        Ok((head.status.as_u16(), body))
    }

    /// What the bytes are read as when they come in pieces, and whether the connection may go on.
    fn reply(pieces: &[&[u8]], closed: bool) -> (Result<(u16, Vec<u8>), HttpError>, bool) {
        run(async {
            let (ours, mut theirs) = duplex(7);
            let mut connection = Connection::new(ours);
            let sending = async {
                for piece in pieces {
                    let _ = theirs.write_all(piece).await;
                }
                // Kept open where the test says so: then only the bytes can end the reply.
                let _kept = (!closed).then_some(theirs);
                std::future::pending::<()>().await;
            };
            let read = tokio::select! {
                read = read(&mut connection) => read,
                () = sending => unreachable!("it never ends"),
            };
            (read, connection.is_reusable())
        })
    }

    fn body(bytes: &[u8], closed: bool) -> (String, bool) {
        let (read, reusable) = reply(&[bytes], closed);
        (String::from_utf8(read.unwrap().1).unwrap(), reusable)
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        for (bytes, closed, text, reusable) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[..], false, "abc", true),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false, "", true),
            (b"HTTP/1.1 204 No\r\n\r\n", false, "", true),
            (b"HTTP/1.1 200 OK\r\n\r\nabc", true, "abc", false),
            (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", false, "a", false),
            (
                b"HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 1\r\n\r\na",
                false,
                "a",
                false,
            ),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nab\r\nA\r\n0123456789\r\n0\r\nt: v\r\n\r\n",
                false,
                "ab0123456789",
                true,
            ),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
                false,
                "a",
                true,
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                false,
                "a",
                false,
            ),
        ] {
            let name = String::from_utf8_lossy(bytes);
            assert_eq!(body(bytes, closed), (text.to_owned(), reusable), "{name}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let long_head = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(LONGEST_HEAD + 1));
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "a: b\r\n".repeat(MOST_HEADERS + 1)
        );
        let long_line = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;{}",
            "x".repeat(LONGEST_LINE + 1)
        );
        for bytes in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\na",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
            &long_head,
            &many,
            &long_line,
        ] {
            let (read, _) = reply(&[bytes.as_bytes()], false);
            assert!(
                matches!(read, Err(HttpError::Wrong(_))),
                "{bytes:.60} {read:?}"
            );
        }
    }

    #[test]
    fn an_end_before_the_first_byte_differs_from_one_within_the_reply() {
        assert!(matches!(reply(&[], true).0, Err(HttpError::Closed)));
        for cut in [
            &b"HTT"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            assert!(matches!(reply(&[cut], true).0, Err(HttpError::Io(_))));
        }
    }

    #[test]
    fn a_reply_that_comes_before_the_request_is_sent_is_read() {
        run(async {
            let (ours, mut theirs) = duplex(64);
            let mut connection = Connection::new(ours);
            let answer = b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n";
            theirs.write_all(answer).await.unwrap();
            let request = vec![b'x'; 1 << 20];
            connection.send([b"", &request]).await.unwrap();
            assert_eq!(read(&mut connection).await.unwrap().0, 413);
            assert!(!connection.is_reusable());
        });
    }

    #[test]
    fn an_idle_connection_that_was_closed_is_not_quiet() {
        run(async {
            let (ours, theirs) = duplex(64);
            let mut connection = Connection::new(ours);
            assert!(connection.is_quiet());
            drop(theirs);
            assert!(!connection.is_quiet());
        });
    }

    proptest! {
        #[test]
        fn cuts_between_packets_mean_nothing(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(1..30_usize, 0..20),
        ) {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes().chain(chunk.iter().copied()));
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = more;
            }
            pieces.push(rest);
            let (read, reusable) = reply(&pieces, false);
            prop_assert_eq!(read.unwrap().1, chunks.concat());
            prop_assert!(reusable);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = reply(&[b"HTTP/1.1 200 OK\r\n", &bytes], true);
        }
    }
}
