//! The real server, killed under load again and again: what it has acknowledged is there each time.
//!
//! Four clients create, replace, pause, resume, trigger and remove tasks of their own, all at once, until the
//! process is killed at a random moment. A request that was not answered may have been carried out or not;
//! everything else must be as the answers said. Three tasks more, one for each misfire policy, are left alone:
//! each of their times must be accounted for by exactly one record. Ten rounds in every test run, 200 with
//! `GANTRY_TEST_FULL`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use reqwest::Method;
use runtime::Timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::process::{Folder, Server, command, server_program};

const ROUNDS: (usize, usize) = (10, 200);
/// The times of the tasks that are left alone lie so far apart.
const BEAT_MS: i64 = 200;
/// Room for the records of all rounds.
const CONFIG: &str = "[scheduler]\nmax_records = 1000000\nmax_records_per_task = 1000000\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_1_promise_2_promise_3_killed_under_load_at_random_moments() {
    let rounds = if std::env::var_os("GANTRY_TEST_FULL").is_some() { ROUNDS.1 } else { ROUNDS.0 };
    let folder = Folder::new();
    std::fs::write(folder.path().join("gantry.toml"), CONFIG).unwrap();
    let mut told = Told::default();
    let mut server = start(folder, &mut told).await;
    for policy in POLICIES {
        let mut misfire = json!({"policy": policy, "window": "1d"});
        if policy == "run_all" {
            misfire["limit"] = json!(1000);
        }
        let body = json!({
            "id": beat(policy), "overlap": "allow", "misfire": misfire,
            "schedule": {"type": "interval", "interval": format!("{BEAT_MS}ms")},
            "payload": {"message": "beat"},
        });
        server.post("/scheduler/tasks", body).await.data();
    }
    let mut clients: Vec<Client> = (0..4).map(Client::new).collect();
    for round in 0..rounds {
        let after = Duration::from_millis(fastrand::u64(20..600));
        let [a, b, c, d] = clients.as_mut_slice() else { unreachable!("four of them") };
        let end = async {
            tokio::time::sleep(after).await;
            server.signal(Signal::KILL);
        };
        tokio::join!(
            a.work(&server.base),
            b.work(&server.base),
            c.work(&server.base),
            d.work(&server.base),
            end
        );
        let folder = server.kill().await;
        if round + 1 == rounds {
            // Down for long enough that some times are missed for certain.
            tokio::time::sleep(Duration::from_millis(3 * BEAT_MS.unsigned_abs())).await;
        }
        server = start(folder, &mut told).await;
        for client in &mut clients {
            client.check(&server, &mut told).await;
        }
        if round % 10 == 9 {
            check_records(&server).await;
        }
    }
    for policy in POLICIES {
        check_beat(&server, policy, &mut told).await;
    }
    told.runs = check_records(&server).await;
    for client in &clients {
        told.acknowledged += client.acknowledged;
        told.tasks += client.tasks.len();
    }
    println!("killed {rounds} times: {told:?}");
}

/// What was seen.
#[derive(Debug, Default)]
struct Told {
    acknowledged: usize,
    /// Requests without an answer, and how many of them had been carried out.
    unanswered: usize,
    unanswered_and_made: usize,
    tasks: usize,
    triggered: usize,
    runs: usize,
    /// Times of the tasks that were left alone: run, and left out since the host was down.
    times_run: usize,
    times_missed: usize,
    slowest_start: Duration,
}

const POLICIES: [&str; 3] = ["run_all", "run_once", "skip"];

fn beat(policy: &str) -> String {
    format!("beat.{policy}")
}

async fn start(folder: Folder, told: &mut Told) -> Server {
    let begun = Instant::now();
    let mut command = command(&folder, server_program());
    // Each line of the log is one of a pipe that nobody reads.
    command.env("LOG_LEVEL", "error");
    let server = Server::spawn(folder, command).await;
    told.slowest_start = told.slowest_start.max(begun.elapsed());
    server
}

/// A task as far as a client can see it: paused or not, and its description. None is one that is not there.
type Seen = Option<(bool, String)>;

/// One that changes tasks of its own, one request after the other.
struct Client {
    number: usize,
    http: reqwest::Client,
    rng: fastrand::Rng,
    /// What each task may be: one state, or two while it is not known whether a change was made.
    tasks: BTreeMap<String, Vec<Seen>>,
    /// Runs that were triggered since the last check, by task, but for those of tasks that were to go.
    triggered: BTreeMap<String, Vec<String>>,
    acknowledged: usize,
    unanswered: usize,
}

impl Client {
    fn new(number: usize) -> Self {
        Self {
            number,
            http: reqwest::Client::builder().timeout(crate::process::PATIENCE).build().unwrap(),
            rng: fastrand::Rng::new(),
            tasks: BTreeMap::new(),
            triggered: BTreeMap::new(),
            acknowledged: 0,
            unanswered: 0,
        }
    }

    /// Works until the server does not answer.
    async fn work(&mut self, base: &str) {
        while self.change(base).await {}
    }

    /// Makes one change. Tells whether it was answered.
    async fn change(&mut self, base: &str) -> bool {
        let id = format!("c{}.t{}", self.number, self.rng.usize(..30));
        let tasks = format!("{base}/scheduler/tasks");
        let present = self.tasks.get(&id).and_then(|states| states[0].clone());
        let description = format!("d{}", self.rng.u32(..));
        let body = json!({
            "id": id, "description": description, "overlap": "allow", "payload": {"message": "x"},
            "schedule": {"type": "interval", "interval": format!("{}ms", self.rng.u32(50..2000))},
        });
        let (request, after) = match (&present, self.rng.u8(..10)) {
            (None, _) => (with(self.http.post(&tasks), &body), Some((false, description))),
            (Some(_), 0) => {
                self.triggered.remove(&id);
                (self.http.delete(format!("{tasks}/{id}")), None)
            }
            (Some((paused, _)), 1..4) => {
                (with(self.http.put(format!("{tasks}/{id}")), &body), Some((*paused, description)))
            }
            (Some((paused, description)), 4..6) => {
                let action = if *paused { "resume" } else { "pause" };
                (self.http.post(format!("{tasks}/{id}/{action}")), Some((!paused, description.clone())))
            }
            (Some(_), _) => return self.trigger(&id, &format!("{tasks}/{id}/trigger")).await,
        };
        match send(request).await {
            Some(_) => {
                self.acknowledged += 1;
                self.tasks.insert(id, vec![after]);
                true
            }
            None => {
                self.unanswered += 1;
                self.tasks.insert(id, vec![present, after]);
                false
            }
        }
    }

    async fn trigger(&mut self, id: &str, url: &str) -> bool {
        let answer = send(self.http.post(url)).await;
        if let Some(answer) = &answer {
            self.acknowledged += 1;
            let run = answer["data"]["run"]["id"].as_str().unwrap().to_owned();
            self.triggered.entry(id.to_owned()).or_default().push(run);
        }
        answer.is_some()
    }

    /// Everything is as it was acknowledged.
    async fn check(&mut self, server: &Server, told: &mut Told) {
        told.unanswered += std::mem::take(&mut self.unanswered);
        for (id, states) in &mut self.tasks {
            let answer = server.raw(Method::GET, &format!("/scheduler/tasks/{id}"), None, &[]).await;
            let found = (answer.status != 404).then(|| {
                let task = answer.data()["task"].take();
                (task["status"] == "paused", task["description"].as_str().unwrap_or_default().to_owned())
            });
            assert!(states.contains(&found), "promise 1: {id} is {found:?}, and not one of {states:?}");
            told.unanswered_and_made += usize::from(states.len() == 2 && states[1] == found);
            *states = vec![found];
        }
        for run in std::mem::take(&mut self.triggered).into_values().flatten() {
            let answer = server.raw(Method::GET, &format!("/scheduler/runs/{run}"), None, &[]).await;
            assert_eq!(answer.status, 200, "promise 1: {}", answer.text);
            assert_eq!(answer.data()["run"]["origin"], "trigger");
            told.triggered += 1;
        }
    }
}

fn with(request: reqwest::RequestBuilder, body: &Value) -> reqwest::RequestBuilder {
    request.header("content-type", "application/json").body(body.to_string())
}

/// The answer; nothing where the server has ended meanwhile.
async fn send(request: reqwest::RequestBuilder) -> Option<Value> {
    let response = request.send().await.ok()?;
    let status = response.status();
    let text = response.text().await.ok()?;
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).ok()
}

async fn all_runs(server: &Server, path: &str) -> Vec<Value> {
    let mut runs = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.raw(Method::GET, &format!("{path}?limit=1000{cursor}"), None, &[]).await.data();
        runs.extend(page["runs"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return runs,
        }
    }
}

fn time(run: &Value, field: &str) -> Option<Timestamp> {
    run[field].as_str().map(|text| text.parse().unwrap())
}

/// No run is recorded twice, and none began early. Tells how many there are.
async fn check_records(server: &Server) -> usize {
    let runs = all_runs(server, "/scheduler/runs").await;
    let mut keys = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for run in &runs {
        let key = ["task", "incarnation", "scheduled_for", "origin"].map(|field| run[field].to_string());
        // A page begins with what was the last of the one before, if it has changed its place meanwhile.
        if ids.insert(run["id"].to_string()) {
            assert!(keys.insert(key), "promise 3: recorded twice: {run}");
        }
        if let Some(started) = time(run, "started_at") {
            assert!(started >= time(run, "scheduled_for").unwrap(), "promise 2: early: {run}");
        }
    }
    runs.len()
}

/// Each time of a task that was left alone has exactly one record: of its run, or of its being left out.
async fn check_beat(server: &Server, policy: &str, told: &mut Told) {
    let id = beat(policy);
    let since = server.get(&format!("/scheduler/tasks/{id}")).await.data()["task"]["run_count"].as_u64();
    let path = format!("/scheduler/tasks/{id}");
    let later = |data: &Value| data["task"]["run_count"].as_u64() > since.map(|count| count + 2);
    let task = server.until(&path, later).await["task"].take();
    let anchor = time(&task, "created_at").unwrap().as_microsecond();
    let mut times: BTreeMap<i64, &str> = BTreeMap::new();
    let runs = all_runs(server, &format!("{path}/runs")).await;
    for run in &runs {
        let from = time(run, "scheduled_for").unwrap().as_microsecond() - anchor;
        assert_eq!(from % (BEAT_MS * 1000), 0, "{run}");
        for nth in 0..run["times"].as_i64().unwrap() {
            let outcome = run["outcome"].as_str().unwrap();
            let before = times.insert(from / (BEAT_MS * 1000) + nth, outcome);
            assert_eq!(before, None, "promise 3: time {nth} of {run} has two records");
        }
    }
    let last = *times.keys().next_back().unwrap();
    let absent: Vec<i64> = (1..=last).filter(|time| !times.contains_key(time)).collect();
    assert!(absent.is_empty(), "{id}: no record of {absent:?}");
    let missed = times.values().filter(|outcome| **outcome == "skipped").count();
    match policy {
        "run_all" => assert_eq!(missed, 0, "every time that was missed is made up for"),
        _ => assert!(missed > 0, "what passed while the host was down is left out"),
    }
    told.times_missed += missed;
    told.times_run += times.len() - missed;
}
