//! The configuration of a node, which is broker and controller in one.

/// What a node of a cluster is to be.
pub(crate) struct Node {
    pub(crate) id: usize,
    /// The port for clients: what it listens on, and what it announces.
    pub(crate) clients: (u16, u16),
    /// The port for other brokers: what it listens on, and what it announces.
    pub(crate) brokers: (u16, u16),
    /// The port for other controllers: what it listens on, and what it announces.
    pub(crate) controllers: (u16, u16),
    /// Further listeners: name, security protocol, port.
    pub(crate) more: Vec<(String, String, u16)>,
}

/// The properties file of a node; `voters` are the ids and ports at which controllers are reached.
pub(crate) fn text(node: &Node, voters: &[(usize, u16)], more: &[(String, String)]) -> String {
    let at = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
    let mut listeners = vec![
        at("CLIENTS", node.clients.0),
        at("BROKERS", node.brokers.0),
        at("CONTROLLERS", node.controllers.0),
    ];
    // A controller that is not announced tells its followers the port that it listens on, past its link.
    let mut announced = vec![
        at("CLIENTS", node.clients.1),
        at("BROKERS", node.brokers.1),
        at("CONTROLLERS", node.controllers.1),
    ];
    let mut protocols =
        vec!["CLIENTS:PLAINTEXT".into(), "BROKERS:PLAINTEXT".into(), "CONTROLLERS:PLAINTEXT".into()];
    for (name, protocol, port) in &node.more {
        listeners.push(at(name, *port));
        announced.push(at(name, *port));
        protocols.push(format!("{name}:{protocol}"));
    }
    let voters: Vec<String> = voters.iter().map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
    // Replicas as many as there are nodes, three at most; all but one of them must have a record before it
    // is acknowledged, so that one node may be lost.
    let replicas = voters.len().min(3).to_string();
    let in_sync = voters.len().min(3).saturating_sub(1).max(1).to_string();
    let id = node.id.to_string();
    let own = [
        ("process.roles", "broker,controller"),
        ("node.id", &id),
        ("controller.quorum.voters", &voters.join(",")),
        ("controller.listener.names", "CONTROLLERS"),
        ("inter.broker.listener.name", "BROKERS"),
        ("listeners", &listeners.join(",")),
        ("advertised.listeners", &announced.join(",")),
        ("listener.security.protocol.map", &protocols.join(",")),
        ("log.dirs", "data"),
        ("num.partitions", "1"),
        ("default.replication.factor", &replicas),
        ("min.insync.replicas", &in_sync),
        ("offsets.topic.replication.factor", &replicas),
        ("transaction.state.log.replication.factor", &replicas),
        ("transaction.state.log.min.isr", &in_sync),
        ("share.coordinator.state.topic.replication.factor", &replicas),
        ("share.coordinator.state.topic.min.isr", &in_sync),
        // The defaults of 50 are for large clusters, and creating them is most of a first group's wait.
        ("offsets.topic.num.partitions", "4"),
        ("transaction.state.log.num.partitions", "4"),
        ("share.coordinator.state.topic.num.partitions", "4"),
        // A topic that does not exist is an error, as in any production that cares.
        ("auto.create.topics.enable", "false"),
        // A group starts at once instead of waiting three seconds for more members.
        ("group.initial.rebalance.delay.ms", "0"),
        // A dead broker is noticed after four seconds instead of nine. With less, live brokers were taken for
        // dead on a busy machine while they looked for a new controller.
        ("broker.session.timeout.ms", "4000"),
        ("broker.heartbeat.interval.ms", "500"),
    ];
    // What a test sets replaces what is set here.
    let kept = own.iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    let lines = kept.map(|(name, value)| format!("{name}={value}\n"));
    lines.chain(more.iter().map(|(name, value)| format!("{name}={value}\n"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let more = vec![("SASL".into(), "SASL_PLAINTEXT".into(), 4)];
        Node { id: 1, clients: (1, 11), brokers: (2, 12), controllers: (3, 13), more }
    }

    #[test]
    fn a_node_listens_on_its_ports_and_announces_those_of_its_links() {
        let text = text(&node(), &[(1, 13)], &[]);
        for line in [
            "listeners=CLIENTS://127.0.0.1:1,BROKERS://127.0.0.1:2,CONTROLLERS://127.0.0.1:3,SASL://127.0.0.1:4",
            "advertised.listeners=CLIENTS://127.0.0.1:11,BROKERS://127.0.0.1:12,CONTROLLERS://127.0.0.1:13,SASL://127.0.0.1:4",
            "controller.quorum.voters=1@127.0.0.1:13",
            "min.insync.replicas=1",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
    }

    #[test]
    fn what_a_test_sets_is_set_once() {
        let more = [("min.insync.replicas".to_owned(), "3".to_owned())];
        let text = text(&node(), &[(1, 1), (2, 2), (3, 3)], &more);
        let found: Vec<&str> = text.lines().filter(|line| line.starts_with("min.insync.replicas")).collect();
        assert_eq!(found, ["min.insync.replicas=3"]);
        assert!(text.contains("default.replication.factor=3\n"));
    }
}
