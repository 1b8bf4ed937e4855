//! Start, configuration and end.

use rustix::process::Signal;
use serde_json::json;

use crate::process::{Folder, Server, command, server_program};

#[tokio::test]
async fn answers_at_once_and_says_what_it_is() {
    let server = Server::start().await;
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(server.get(path).await.status.as_u16(), 200, "{path}");
    }
    let health = server.get("/health").await.data();
    assert!(health["plugins"].to_string().contains("scheduler"), "{health}");
    let page = server.raw(reqwest::Method::GET, "/", None, &[("accept", "text/html")]).await;
    assert!(page.text.contains("Gantry") && page.text.contains("/docs"), "{}", page.text);
    for path in ["/docs", "/demo", "/demo/scheduler", "/demo/config", "/demo/factory", "/demo/events"] {
        let page = server.raw(reqwest::Method::GET, path, None, &[("accept", "text/html")]).await;
        assert_eq!(page.status.as_u16(), 200, "{path}");
        assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"), "{path}");
        for elsewhere in ["src=\"http", "src=\"//", "href=\"http", "href=\"//", "url(http", "@import"] {
            assert!(!page.text.contains(elsewhere), "{path} loads from elsewhere: {elsewhere}");
        }
    }
    for path in ["/demo", "/demo/scheduler", "/demo/config", "/demo/factory", "/demo/events"] {
        assert!(server.get(path).await.data().is_object(), "{path}");
    }
}

#[tokio::test]
async fn metrics_have_the_names_that_are_promised() {
    let server = Server::start().await;
    server.post("/plugins/events/test", json!({})).await.data();
    server
        .post("/scheduler/tasks", json!({"id": "m", "schedule": {"type": "once", "delay": "1ms"}}))
        .await
        .data();
    server.until("/scheduler/tasks/m", |data| data["task"]["status"] == "completed").await;
    let text = server.get("/metrics").await.text;
    for name in [
        "build_info{",
        "plugin_count_total",
        "plugin_status{",
        "plugin_startup_duration_seconds",
        "plugin_restarts_total",
        "scheduler_tasks_total",
        "scheduler_task_executions_total",
        "scheduler_task_duration_seconds",
        "scheduler_task_failures_total",
        "scheduler_task_lateness_seconds",
        "scheduler_task_skipped_total",
        "scheduler_task_auto_pauses_total",
        "scheduler_runs_stuck",
        "scheduler_store_bytes",
        "scheduler_store_changes_total",
        "scheduler_store_commit_duration_seconds",
        "scheduler_store_commits_total",
        "scheduler_store_errors_total",
        "scheduler_store_pending",
        "event_bus_published_total",
        "event_bus_delivered_total",
        "event_bus_dropped_total",
        "event_bus_queue_depth",
        "http_server_request_duration_seconds",
    ] {
        assert!(text.contains(name), "{name} is not in /metrics:\n{text}");
    }
    assert!(!text.contains("\"m\""), "a task's id is no label");
}

#[tokio::test]
async fn promise_7_signals_end_it_with_zero() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = Server::start().await;
        server.signal(signal);
        assert_eq!(server.ended().await, Some(0), "{signal:?}");
    }
}

#[tokio::test]
async fn a_server_whose_log_is_silent_goes_on_until_it_is_asked_to_end() {
    for level in ["off", "error", "warn"] {
        let folder = Folder::new();
        let mut command = command(&folder, server_program());
        command.env("LOG_LEVEL", level);
        let server = Server::spawn(folder, command).await;
        for _ in 0..20 {
            assert_eq!(server.get("/health/live").await.status.as_u16(), 200, "{level}");
        }
        server.signal(Signal::TERM);
        assert_eq!(server.ended().await, Some(0), "{level}");
    }
}

#[tokio::test]
async fn promise_7_a_run_that_hangs_does_not_hold_up_the_end() {
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", hole.local_addr().unwrap());
    let server = Server::with_config("[manager]\nshutdown_deadline = \"2s\"\n").await;
    let task = json!({
        "id": "hangs", "executor": "http", "payload": {"url": url}, "timeout": "1h",
        "schedule": {"type": "once", "delay": "1ms"},
    });
    server.post("/scheduler/tasks", task).await.data();
    server.until("/scheduler/tasks/hangs", |data| data["task"]["status"] == "running").await;
    server.signal(Signal::TERM);
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test]
async fn a_port_in_use_is_said_so() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let folder = Folder::new();
    let output = command(&folder, server_program()).env("HTTP_PORT", address.port().to_string()).output();
    let output = output.await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(&address.to_string()) && errors.contains("in use"), "{errors}");
}

#[tokio::test]
async fn promise_10_a_wrong_configuration_is_named_and_nothing_starts() {
    for (toml, expected) in [
        ("[manager]\nauto_laod = true\n", "manager.auto_laod"),
        ("[manager]\nmax_startup_time = \"soon\"\n", "manager.max_startup_time"),
        ("[plugins.http]\nport = 99999\n", "plugins.http.port"),
        ("[plugins.http]\nprot = 1\n", "plugins.http.prot"),
        ("[plugins.absent]\nx = 1\n", "plugins.absent"),
        ("[scheduler]\nmax_concurrent_tasks = 0\n", "plugins.scheduler.max_concurrent_tasks"),
        ("[manager\n", "gantry.toml"),
        ("[plugins.http]\nhost = \"0.0.0.0\"\n", "plugins.http"),
    ] {
        for check in [true, false] {
            let folder = Folder::new();
            std::fs::write(folder.path().join("gantry.toml"), toml).unwrap();
            let mut command = command(&folder, server_program());
            command.env_remove("HTTP_PORT");
            if check {
                command.arg("--check-config");
            }
            let output = command.output().await.unwrap();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{toml}: {errors}");
            assert!(errors.contains(expected), "{toml}: {errors}");
        }
    }
}

/// Everything that is wrong at once: the file, the environment and the flags.
#[tokio::test]
async fn promise_10_all_that_is_wrong_is_listed_with_its_place() {
    let folder = Folder::new();
    let toml = "[manager]\nauto_laod = true\n[scheduler]\nmax_tasks = 0\n[plugins.absent]\nx = 1\n";
    std::fs::write(folder.path().join("gantry.toml"), toml).unwrap();
    let mut command = command(&folder, server_program());
    command.env("HTTP_PORT", "many").args(["--check-config", "--set", "log.format=xml"]);
    let output = command.output().await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for expected in [
        "the configuration has 5 problems:",
        "gantry.toml: `manager.auto_laod`: unknown key, did you mean `auto_load`?",
        "gantry.toml: `plugins.scheduler.max_tasks`: must be from 1 to 1073741824",
        "gantry.toml: `plugins.absent`: there is no plugin of this name",
        "HTTP_PORT: `plugins.http.port`: invalid type: string, expected a whole number from 0 to 65535",
        "--set log.format: `log.format`: ",
    ] {
        assert!(errors.contains(expected), "{expected} is not in: {errors}");
    }
}

#[tokio::test]
async fn a_right_configuration_is_said_to_be_right_without_starting() {
    let folder = Folder::new();
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/gantry.toml"), folder.path().join("gantry.toml"))
        .unwrap();
    let output = command(&folder, server_program()).arg("--check-config").output().await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
}
