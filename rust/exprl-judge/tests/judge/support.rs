//! A server that answers by a script, byte by byte where it must misbehave; and builders.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use exprl_judge::{Item, Judge, Settings, Verdict};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What the server does with one request.
#[derive(Clone)]
pub enum Answer {
    /// 200 with a completion of this text.
    Text(String),
    /// The same, after a delay.
    Slow(Duration, String),
    /// A status, further header lines, a body.
    Status(u16, &'static str, String),
    /// 200 with these bytes as the body.
    Bytes(Vec<u8>),
    /// 200 with these texts as streamed pieces; then the stream ends, or goes on without an end.
    Stream(Vec<&'static str>, Then),
    /// These bytes instead of a reply.
    Raw(Vec<u8>),
    /// 200, but the body breaks off.
    Cut,
    /// The connection closes without a byte.
    Close,
    /// No byte ever; the connection stays open.
    Hang,
    /// The head and half a body, then no byte ever.
    Stall,
}

/// How a streamed reply goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    End,
    /// More text, for as long as somebody listens.
    Ramble,
    /// No byte ever.
    Stall,
}

/// A request as it arrived.
#[derive(Clone)]
pub struct Seen {
    pub at: Instant,
    pub head: String,
    pub body: Value,
}

impl Seen {
    /// The user message.
    pub fn question(&self) -> &str {
        self.body["messages"][0]["content"].as_str().unwrap()
    }
}

type Script = dyn Fn(usize, &Seen) -> Answer + Send + Sync;

pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// `script` gets the number of the request, from 0, and the request.
    pub async fn start(script: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_pages(Pages::default(), script).await
    }

    /// The same, with a page under `/metrics`.
    pub async fn with_metrics(
        metrics: &'static str,
        script: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let pages = Pages {
            metrics,
            ..Pages::default()
        };
        Self::with_pages(pages, script).await
    }

    /// The same, with a list of models that tells the context of `judge`.
    pub async fn with_context(
        tokens: usize,
        script: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let pages = Pages {
            context: Some(tokens),
            ..Pages::default()
        };
        Self::with_pages(pages, script).await
    }

    async fn with_pages(
        pages: Pages,
        script: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let open = Arc::new(AtomicUsize::new(0));
        let (log, count, script): (_, _, Arc<Script>) =
            (seen.clone(), open.clone(), Arc::new(script));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, count, script) = (log.clone(), count.clone(), script.clone());
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = serve(stream, pages, &log, &*script).await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            url,
            seen,
            open,
            task,
        }
    }

    /// Always the same grade.
    pub async fn grading(grade: u8) -> Self {
        Self::start(move |_, _| score(grade)).await
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What stands beside the completions.
#[derive(Clone, Copy, Default)]
struct Pages {
    metrics: &'static str,
    context: Option<usize>,
}

async fn serve(
    stream: TcpStream,
    pages: Pages,
    log: &Mutex<Vec<Seen>>,
    script: &Script,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some((head, body)) = read_request(&mut stream).await? else {
            return Ok(());
        };
        if head.starts_with("get ") {
            let page = if head.starts_with("get /v1/models ") {
                pages.context.map(|tokens| {
                    json!({"data": [{"id": "judge", "max_model_len": tokens}]}).to_string()
                })
            } else {
                // The question for the size of a KV cache.
                assert!(head.starts_with("get /metrics ") && !head.contains("authorization"));
                (!pages.metrics.is_empty()).then(|| pages.metrics.to_owned())
            };
            let status = if page.is_some() { 200 } else { 404 };
            reply(&mut stream, status, "", page.unwrap_or_default().as_bytes()).await?;
            continue;
        }
        let seen = Seen {
            at: Instant::now(),
            head,
            body,
        };
        let number = {
            let mut log = log.lock().unwrap();
            log.push(seen.clone());
            log.len() - 1
        };
        match script(number, &seen) {
            Answer::Text(text) => reply(&mut stream, 200, "", completion(&text).as_bytes()).await?,
            Answer::Slow(delay, text) => {
                tokio::time::sleep(delay).await;
                reply(&mut stream, 200, "", completion(&text).as_bytes()).await?;
            }
            Answer::Status(code, headers, body) => {
                reply(&mut stream, code, headers, body.as_bytes()).await?;
            }
            Answer::Stream(texts, then) => {
                stream_reply(&mut stream, &texts, then).await?;
                if then != Then::End {
                    return Ok(());
                }
            }
            Answer::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return Ok(());
            }
            Answer::Bytes(body) => reply(&mut stream, 200, "", &body).await?,
            Answer::Cut => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"choices\": [")
                    .await?;
                return Ok(());
            }
            Answer::Close => return Ok(()),
            Answer::Stall => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"choices\": [")
                    .await?;
                until_closed(&mut stream).await;
                return Ok(());
            }
            Answer::Hang => {
                until_closed(&mut stream).await;
                return Ok(());
            }
        }
    }
}

async fn stream_reply(
    stream: &mut BufReader<TcpStream>,
    texts: &[&str],
    then: Then,
) -> std::io::Result<()> {
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
            transfer-encoding: chunked\r\n\r\n",
        )
        .await?;
    let text = |text: &str| json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    for piece in texts {
        send_event(stream, &text(piece).to_string()).await?;
    }
    match then {
        Then::End => {
            let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
            let usage =
                json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 2}});
            for event in [&end.to_string(), &usage.to_string(), "[DONE]"] {
                send_event(stream, event).await?;
            }
            stream.write_all(b"0\r\n\r\n").await
        }
        Then::Ramble => loop {
            send_event(stream, &text(" and so on").to_string()).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        },
        Then::Stall => {
            until_closed(stream).await;
            Ok(())
        }
    }
}

async fn send_event(stream: &mut BufReader<TcpStream>, data: &str) -> std::io::Result<()> {
    let event = format!("data: {data}\r\n\r\n");
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    stream.write_all(chunk.as_bytes()).await
}

async fn until_closed(stream: &mut BufReader<TcpStream>) {
    let mut byte = [0];
    while stream.read(&mut byte).await.is_ok_and(|count| count > 0) {}
}

async fn read_request(
    stream: &mut BufReader<TcpStream>,
) -> std::io::Result<Option<(String, Value)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Ok(None),
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    stream.read_exact(&mut body).await?;
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).unwrap()
    };
    Ok(Some((head, body)))
}

async fn reply(
    stream: &mut BufReader<TcpStream>,
    code: u16,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code} Word\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await
}

fn completion(text: &str) -> String {
    json!({
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    })
    .to_string()
}

/// A reply with a grade.
pub fn score(grade: u8) -> Answer {
    Answer::Text(format!("Checked.\nScore: {grade}"))
}

/// A reply without one.
pub fn chatter() -> Answer {
    Answer::Text("I would rather not say.".into())
}

/// A reply that its token limit cut.
pub fn cut(text: &str) -> Answer {
    let choice = json!({"index": 0, "message": {"content": text}, "finish_reason": "length"});
    Answer::Bytes(json!({"choices": [choice]}).to_string().into_bytes())
}

/// Fast settings for tests: outcome view, no re-ask, short timeouts.
pub fn settings(servers: &[&Server]) -> Settings {
    Settings {
        view: exprl_judge::View::Outcome,
        reask: false,
        connect_timeout_s: 2.0,
        first_byte_timeout_s: 5.0,
        idle_timeout_s: 5.0,
        ..Settings::new(
            servers.iter().map(|server| server.url.clone()).collect(),
            "judge",
        )
    }
}

pub fn judge(settings: &Settings) -> Judge {
    Judge::new(settings, Handle::current()).unwrap()
}

/// An item of its own problem, with these segments.
pub fn item(id: usize, segments: &[&str]) -> Item {
    Item {
        id: format!("item {id}"),
        problem: format!("problem {id}").into(),
        reference: Some(format!("reference {id}").into()),
        segments: segments.iter().map(|&text| text.into()).collect(),
        domain: "math".into(),
        checklist: None,
    }
}

/// Grades `count` one-segment items; one verdict each, in input order.
pub async fn grade(judge: &Judge, count: usize) -> Vec<Verdict> {
    let job = judge.submit();
    for id in 0..count {
        job.push(&item(id, &["a trace"])).await.unwrap();
    }
    let graded = job.collect().await;
    assert_eq!(
        graded.iter().map(|graded| graded.index).collect::<Vec<_>>(),
        (0..count).collect::<Vec<_>>()
    );
    graded
        .into_iter()
        .map(|graded| graded.verdicts.into_iter().next().unwrap())
        .collect()
}
