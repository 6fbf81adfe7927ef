//! One HTTP/1.1 connection of hyper, driven by the task that waits for its reply.
//!
//! There is no task per connection: `drive` polls the connection beside what is waited for. So a
//! connection that nobody waits on stands still, and dropping it closes its socket.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use bytes::Bytes;
use bytes::buf::{Buf, Chain};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper::{Request, Response};

/// A head that is longer is refused; hyper takes up to 100 headers.
const LONGEST_HEAD: usize = 32 << 10;

/// What is sent: pieces of shared memory, one after another. Boxed, because hyper keeps room for 32
/// requests per connection.
pub(crate) type Pieces = Full<Box<Chain<Chain<Chain<Chain<Bytes, Bytes>, Bytes>, Bytes>, Bytes>>>;

pub(crate) fn pieces([first, second, third, fourth, fifth]: [Bytes; 5]) -> Pieces {
    let pieces = first.chain(second).chain(third).chain(fourth).chain(fifth);
    Full::new(Box::new(pieces))
}

/// A connection over `S`, a TCP or TLS stream.
pub(crate) struct Connection<S: Read + Write + 'static> {
    requests: SendRequest<Pieces>,
    /// Moves the bytes; gone when the connection has ended.
    driver: Option<Box<http1::Connection<S, Pieces>>>,
    /// It has carried a whole exchange before.
    pub(crate) reused: bool,
}

impl<S: Read + Write + Unpin + 'static> Connection<S> {
    pub(crate) async fn new(stream: S) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_header_size(LONGEST_HEAD);
        let (requests, driver) = builder.handshake(stream).await?;
        Ok(Self {
            requests,
            driver: Some(Box::new(driver)),
            reused: false,
        })
    }

    /// Sends a request and gives the head of its reply; interim ones (1xx) are passed over.
    pub(crate) async fn send(
        &mut self,
        request: Request<Pieces>,
    ) -> hyper::Result<Response<Incoming>> {
        let response = self.requests.send_request(request);
        self.drive(response).await
    }

    /// The next piece of the reply's body; `None` at its end.
    pub(crate) async fn piece(&mut self, body: &mut Incoming) -> hyper::Result<Option<Bytes>> {
        while let Some(frame) = self.drive(body.frame()).await {
            // What is no data is a trailer, which means nothing here.
            if let Ok(piece) = frame?.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// Whether another request may follow: the reply has been read to its end, and the server has
    /// neither closed the connection nor sent anything more.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop()));
        self.requests.is_ready()
    }

    /// Moves the connection's bytes until `waited` resolves.
    async fn drive<F: Future>(&mut self, waited: F) -> F::Output {
        let mut waited = pin!(waited);
        poll_fn(|context| {
            self.poll(context);
            waited.as_mut().poll(context)
        })
        .await
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        // An end resolves what waits for the connection, with the error if there was one.
        self.driver
            .take_if(|driver| Pin::new(&mut **driver).poll(context).is_ready());
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    type Ours = Connection<TokioIo<DuplexStream>>;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(work)
    }

    async fn connected() -> (Ours, DuplexStream) {
        let (ours, theirs) = duplex(64);
        (Connection::new(TokioIo::new(ours)).await.unwrap(), theirs)
    }

    fn question(length: usize) -> Request<Pieces> {
        let body = Bytes::from(vec![b'x'; length]);
        let nothing = Bytes::new();
        let body = [
            body,
            nothing.clone(),
            nothing.clone(),
            nothing.clone(),
            nothing,
        ];
        let mut request = Request::post("/").body(pieces(body)).unwrap();
        let host = hyper::header::HeaderValue::from_static("judge");
        request.headers_mut().insert("host", host);
        request
    }

    async fn read(connection: &mut Ours, length: usize) -> (u16, Vec<u8>) {
        let mut reply = connection.send(question(length)).await.unwrap();
        let mut body = Vec::new();
        while let Some(piece) = connection.piece(reply.body_mut()).await.unwrap() {
            body.extend_from_slice(&piece);
        }
        (reply.status().as_u16(), body)
    }

    /// Reads a head and a body of so many bytes, and answers.
    async fn answer(theirs: &mut DuplexStream, length: usize, reply: &[u8]) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(theirs.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(
            head.contains(&format!("content-length: {length}\r\n")),
            "{head}"
        );
        theirs.read_exact(&mut vec![0; length]).await.unwrap();
        theirs.write_all(reply).await.unwrap();
    }

    #[test]
    fn a_connection_serves_again_when_its_reply_was_whole_and_asked_for_no_end() {
        for (reply, again) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"[..], true),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
                true,
            ),
            (
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc",
                false,
            ),
            (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", false),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcand more",
                false,
            ),
        ] {
            run(async {
                let (mut ours, mut theirs) = connected().await;
                let (read, ()) = tokio::join!(read(&mut ours, 1000), answer(&mut theirs, 1000, reply));
                assert_eq!(read, (200, b"abc".to_vec()));
                assert_eq!(ours.is_ready(), again, "{}", String::from_utf8_lossy(reply));
            });
        }
    }

    #[test]
    fn a_reply_that_comes_before_the_request_is_sent_is_read() {
        run(async {
            let (mut ours, mut theirs) = connected().await;
            let refusal = b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n";
            let refusing = async {
                theirs.read_exact(&mut [0; 16]).await.unwrap();
                theirs.write_all(refusal).await.unwrap();
            };
            let (read, ()) = tokio::join!(read(&mut ours, 1 << 20), refusing);
            assert_eq!(read, (413, Vec::new()));
            assert!(!ours.is_ready());
        });
    }

    #[test]
    fn an_idle_connection_that_was_closed_is_not_ready() {
        run(async {
            let (mut ours, theirs) = connected().await;
            assert!(ours.is_ready());
            drop(theirs);
            assert!(!ours.is_ready());
        });
    }

    #[test]
    fn an_end_within_the_head_or_the_body_is_an_error() {
        for (cut, in_head) in [
            (&b""[..], true),
            (b"HTT", true),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", false),
        ] {
            run(async {
                let (mut ours, mut theirs) = connected().await;
                let closing = async {
                    answer(&mut theirs, 1, cut).await;
                    drop(theirs);
                };
                let asking = ours.send(question(1));
                let (reply, ()) = tokio::join!(asking, closing);
                assert_eq!(reply.is_err(), in_head);
                if let Ok(mut reply) = reply {
                    while let Ok(piece) = ours.piece(reply.body_mut()).await {
                        assert!(piece.is_some(), "the body ended early, and nobody said so");
                    }
                }
            });
        }
    }
}
