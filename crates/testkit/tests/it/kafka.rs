use std::time::Duration;

use testkit::provision::{Program, client};
use testkit::{Kafka, KafkaTool, need, until};

use crate::wire::{exchange, is_silent};

/// ApiVersions in version 0: its key, version, correlation id 9, and no client id.
const API_VERSIONS: &[u8] = &[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 9, 0xff, 0xff];

async fn speaks_kafka(address: &str) {
    let answer = exchange(address, API_VERSIONS).await.unwrap();
    // Length, the correlation id, no error, and a list with something in it.
    assert_eq!(answer[4..10], [0, 0, 0, 9, 0, 0], "{answer:?}");
    assert!(answer[10..14] != [0; 4], "{answer:?}");
}

#[tokio::test]
async fn a_node_answers_and_keeps_its_records_over_a_kill() {
    let kafka = need!(Kafka::builder().listener("EXTRA", "PLAINTEXT").start());
    speaks_kafka(&kafka.addresses()[0]).await;
    speaks_kafka(&kafka.listener("EXTRA")[0]).await;
    let node = &kafka.nodes()[0];

    kafka.tool(KafkaTool::Topics, &["--create", "--topic", "orders", "--partitions", "2"]).await.unwrap();
    let written = ["--topic", "orders", "--max-messages", "20", "--acks", "-1"];
    kafka.tool(KafkaTool::VerifiableProducer, &written).await.unwrap();
    node.kill().await.unwrap();
    assert!(kafka.leader("orders", 0).await.is_err());
    node.restart().await.unwrap();
    assert_eq!(kafka.leader("orders", 1).await.unwrap(), 0);

    // Kafka's own group tool sees a member's offsets and lag.
    let group = ["--topic", "orders", "--group", "readers", "--from-beginning", "--max-messages", "15"];
    kafka.tool(KafkaTool::ConsoleConsumer, &group).await.unwrap();
    let lag = kafka.tool(KafkaTool::ConsumerGroups, &["--describe", "--group", "readers"]).await.unwrap();
    assert!(lag.contains("LAG") && lag.contains("orders"), "{lag}");

    // So does a client that shares nothing with Java's.
    let said = client(Program::Kcat, &["-b", &kafka.bootstrap(), "-L", "-t", "orders"], "").await.unwrap();
    assert!(said.contains("2 partitions"), "{said}");
    client(Program::Kcat, &["-b", &kafka.bootstrap(), "-P", "-t", "orders", "-p", "0"], "by kcat")
        .await
        .unwrap();

    node.pause().unwrap();
    assert!(is_silent(&kafka.addresses()[0], API_VERSIONS).await);
    node.resume().unwrap();
    speaks_kafka(&kafka.addresses()[0]).await;
}

#[tokio::test]
async fn a_partition_gets_another_leader_and_the_old_one_comes_back() {
    let kafka = need!(Kafka::builder().nodes(3).linked().start());
    kafka.tool(KafkaTool::Topics, &["--create", "--topic", "orders"]).await.unwrap();
    let first = kafka.leader("orders", 0).await.unwrap();
    let another = |not: usize| {
        let kafka = &kafka;
        until("another leader", Duration::from_secs(60), async move || {
            match kafka.leader("orders", 0).await {
                Ok(leader) if leader != not => Ok(leader),
                other => Err(format!("{other:?}")),
            }
        })
    };
    let in_step = |count: usize| {
        let kafka = &kafka;
        until("replicas in step", Duration::from_secs(60), async move || {
            match kafka.in_sync("orders", 0).await {
                Ok(found) if found == count => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    };
    in_step(3).await.unwrap();
    // Cut off both ways: it would stay the leader if its heartbeats still reached the controller.
    kafka.nodes()[first].cut().unwrap();
    let second = another(first).await.unwrap();
    kafka.nodes()[first].mend().unwrap();
    in_step(3).await.unwrap();

    kafka.nodes()[second].kill().await.unwrap();
    another(second).await.unwrap();
    kafka.nodes()[second].restart().await.unwrap();
    in_step(3).await.unwrap();
}
