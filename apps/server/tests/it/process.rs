//! The real binary as a child process, and a client that holds each answer against the served OpenAPI.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;

use crate::contract::Contract;

/// How long a condition may take to come about before a test gives up. No test waits for it in vain.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that goes when the test does.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gantry-it-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The server's command, in a folder of its own and without the surrounding environment.
pub(crate) fn command(folder: &Folder, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder.path())
        .env_clear()
        .env("HTTP_PORT", "0")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The server that is built with these tests.
pub(crate) fn server_program() -> &'static str {
    env!("CARGO_BIN_EXE_gantry-server")
}

pub(crate) struct Server {
    child: Child,
    _output: BufReader<ChildStdout>,
    pub(crate) base: String,
    client: reqwest::Client,
    contract: OnceCell<Contract>,
    pub(crate) folder: Folder,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// What is in the envelope of a success.
    #[track_caller]
    pub(crate) fn data(&self) -> Value {
        let mut json = self.json();
        assert!(self.status.is_success(), "{} {json}", self.status);
        assert_eq!(json["code"], self.status.as_u16(), "{json}");
        json["data"].take()
    }

    /// The `error` of a refusal, with this status.
    #[track_caller]
    pub(crate) fn refusal(&self, status: u16) -> Value {
        let json = self.json();
        assert_eq!(self.status.as_u16(), status, "{json}");
        assert_eq!(json["code"], status, "{json}");
        assert!(json["message"].as_str().is_some_and(|m| !m.is_empty()), "{json}");
        assert!(json["trace_id"].as_str().is_some_and(|t| t.len() == 32), "{json}");
        json["error"].clone()
    }
}

impl Server {
    /// The server on a free port.
    pub(crate) async fn start() -> Self {
        let folder = Folder::new();
        let command = command(&folder, server_program());
        Self::spawn(folder, command).await
    }

    /// A server with a configuration file.
    pub(crate) async fn with_config(toml: &str) -> Self {
        let folder = Folder::new();
        std::fs::write(folder.path().join("gantry.toml"), toml).unwrap();
        let command = command(&folder, server_program());
        Self::spawn(folder, command).await
    }

    pub(crate) async fn spawn(folder: Folder, mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let listening = async {
            let mut line = String::new();
            loop {
                line.clear();
                if output.read_line(&mut line).await.unwrap() == 0 {
                    let mut errors = String::new();
                    let _ = child.stderr.take().unwrap().read_to_string(&mut errors).await;
                    panic!("the server ended without listening: {errors}");
                }
                if let Some(at) = line.find("http://127.0.0.1:") {
                    let rest = &line[at..];
                    let end =
                        rest["http://".len()..].find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
                    return rest[..end.map_or(rest.len(), |end| end + "http://".len())].trim_end().to_owned();
                }
            }
        };
        let base = tokio::time::timeout(PATIENCE, listening).await.expect("the server says where it listens");
        let client = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        Self { child, _output: output, base, client, contract: OnceCell::new(), folder }
    }

    /// Sends a request, and checks the answer against what the server's OpenAPI document says of it.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| (body.to_string(), "application/json"));
        self.send_as(method, path, body.as_ref().map(|(text, kind)| (text.as_str(), *kind)), &[]).await
    }

    pub(crate) async fn send_as(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &str)>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let answer = self.raw(method.clone(), path, body, headers).await;
        let contract = self.contract.get_or_init(|| async {
            let document = self.raw(Method::GET, "/openapi.json", None, &[]).await;
            Contract::new(&document.json())
        });
        contract.await.check(&method, path, &answer);
        answer
    }

    /// The same without the check: for routes that are plugins' own.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &str)>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some((body, content_type)) = body {
            request = request.header("content-type", content_type).body(body.to_owned());
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    /// Asks until the answer is as wanted; gives up, with the last answer, when patience runs out.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            let json = answer.json();
            if answer.status.is_success() && wanted(&json["data"]) {
                return json["data"].clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "{path} did not become as wanted: {json}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// An open stream of server-sent events.
    pub(crate) async fn events(&self, query: &str, last_event_id: Option<&str>) -> Events {
        let mut request = self.client.get(format!("{}/events/stream{query}", self.base));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { response, buffer: String::new() }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Kills the server in the middle of whatever it does, and gives its folder back.
    pub(crate) async fn kill(mut self) -> Folder {
        self.child.kill().await.unwrap();
        self.folder
    }

    /// The server on a free port, in a folder in which one has been.
    pub(crate) async fn again(folder: Folder) -> Self {
        let command = command(&folder, server_program());
        Self::spawn(folder, command).await
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Waits for the server's end, and gives its folder and its exit code.
    pub(crate) async fn ended_in(mut self) -> (Folder, Option<i32>) {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("the server ends");
        (self.folder, ended.unwrap().code())
    }

    /// Waits for the server's end and gives its exit code.
    pub(crate) async fn ended(self) -> Option<i32> {
        self.ended_in().await.1
    }
}

/// A stream of server-sent events, read event by event.
pub(crate) struct Events {
    response: reqwest::Response,
    buffer: String,
}

impl Events {
    /// The fields of the next event that is no comment: `id`, `event`, `data`.
    pub(crate) async fn next(&mut self) -> HashMap<String, String> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let fields: HashMap<_, _> = block
                    .lines()
                    .filter_map(|line| line.split_once(':'))
                    .filter(|(name, _)| !name.is_empty())
                    .map(|(name, value)| (name.to_owned(), value.trim_start().to_owned()))
                    .collect();
                if fields.contains_key("data") {
                    return fields;
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("an event comes");
            let chunk = chunk.unwrap().expect("the stream goes on");
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event of a type.
    pub(crate) async fn next_of(&mut self, topic: &str) -> (String, Value) {
        loop {
            let event = self.next().await;
            let Ok(data) = serde_json::from_str::<Value>(&event["data"]) else { continue };
            if data["type"] == topic {
                return (event["id"].clone(), data);
            }
        }
    }
}
