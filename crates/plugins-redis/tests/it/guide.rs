//! What the guide shows is what the example runs.

use testkit::{Redis, need};

#[path = "../../examples/redis.rs"]
#[expect(dead_code, reason = "its `main` takes an address from the command line")]
mod example;

const GUIDE: &str = include_str!("../../../../docs/guide/redis.md");
const SOURCE: &str = include_str!("../../examples/redis.rs");

#[test]
fn every_snippet_of_the_guide_is_in_the_example() {
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let source = squeezed(SOURCE);
    let blocks: Vec<_> =
        GUIDE.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 5, "{} snippets", blocks.len());
    for block in blocks {
        assert!(source.contains(&squeezed(block)), "the example does not have:\n{block}");
    }
}

#[tokio::test]
async fn the_example_runs() {
    let server = need!(Redis::start());
    example::run(server.address()).await.unwrap();
    let kept = server.ask(&["HGET", "user:7", "name"]).await.unwrap();
    assert_eq!(kept.text(), Some("Ada"));
}
