//! What the documentation shows is what there is: its snippets, and the commands of the tour.

use std::path::Path;

use reqwest::Method;
use serde_json::Value;

use crate::plugins::example;
use crate::process::Server;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

/// The fenced blocks of a language in a document.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let after = text.split(fence.as_str()).skip(1);
    after.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_plugin_of_the_readme_runs() {
    let snippet = blocks(&read("README.md"), "rust").remove(0);
    let source = read("apps/server/examples/clock.rs");
    assert!(source.ends_with(&snippet), "examples/clock.rs is not what the README says");

    let server = example("clock", &[]).await;
    server.until("/plugins/clock", |data| data["plugin"]["status"] == "running").await;
    let time = server.raw(Method::GET, "/clock", None, &[]).await;
    assert_eq!(time.status.as_u16(), 200, "{}", time.text);
    assert!(time.text.starts_with("20") && time.text.ends_with('Z'), "{}", time.text);
    assert_eq!(server.get("/scheduler/tasks/clock-tick").await.data()["task"]["executor"], "clock.tick");
}

#[test]
fn the_snippets_of_the_guide_are_in_its_example() {
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let source = squeezed(&format!(
        "{}{}",
        read("apps/server/examples/greeter/plugin.rs"),
        read("apps/server/examples/greeter/main.rs")
    ));
    for block in blocks(&read("docs/guide/first-plugin.md"), "rust") {
        // What another plugin would do is in nobody's example; `…` stands for what is left out.
        let own = block.split("// in another plugin").next().unwrap();
        for part in own.split('…').map(squeezed).filter(|part| !part.is_empty()) {
            assert!(source.contains(&part), "the example does not have:\n{part}");
        }
    }
}

/// What a command of the tour asks for: the method, the path, and the body.
fn request(command: &str, base: &str) -> Option<(Method, String, Option<String>)> {
    let at = command.find(base)? + base.len();
    let path = command[at..].split(['\'', ' ', '\n']).next()?.to_owned();
    let method = match command.split("-X ").nth(1) {
        Some(rest) => rest.split(' ').next()?.parse().ok()?,
        None => Method::GET,
    };
    let body = command.split("-d '").nth(1).and_then(|rest| rest.strip_suffix('\''));
    Some((method, path, body.map(str::to_owned)))
}

#[tokio::test]
async fn every_command_of_the_tour_does_what_it_says() {
    let server = Server::start().await;
    let mut done = 0;
    for stop in ["/", "/demo", "/demo/scheduler", "/demo/events", "/demo/config", "/demo/factory"] {
        let page = server.get(stop).await.data();
        for step in page["steps"].as_array().unwrap() {
            let command = step["command"].as_str().unwrap();
            // A stream has no end, and a server is started elsewhere.
            let Some((method, path, body)) = request(command, &server.base) else { continue };
            if path.starts_with("/events/stream") {
                continue;
            }
            let body = body.map(|text| serde_json::from_str::<Value>(&text).unwrap());
            let answer = server.send(method, &path, body).await;
            assert!(answer.status.is_success(), "{stop}: {command}: {}", answer.text);
            done += 1;
        }
        for link in page["links"].as_array().unwrap() {
            let path = link["path"].as_str().unwrap();
            assert!(server.get(path).await.status.is_success(), "{stop}: {path}");
        }
    }
    assert!(done > 15, "{done} commands were found");
}
