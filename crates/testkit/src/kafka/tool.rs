//! Kafka's own command line tools.

use std::time::Duration;

use super::JVM;
use crate::provision::{Launch, run_tool};

const WITHIN: Duration = Duration::from_secs(60);

/// One of Kafka's own command line tools. Each is a JVM of its own and takes about a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KafkaTool {
    /// `kafka-topics`.
    Topics,
    /// `kafka-consumer-groups`.
    ConsumerGroups,
    /// `kafka-configs`.
    Configs,
    /// `kafka-get-offsets`.
    GetOffsets,
    /// `kafka-console-consumer`.
    ConsoleConsumer,
    /// `kafka-verifiable-producer`, which writes numbers.
    VerifiableProducer,
}

impl KafkaTool {
    fn class(self) -> &'static str {
        match self {
            Self::Topics => "org.apache.kafka.tools.TopicCommand",
            Self::ConsumerGroups => "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            Self::Configs => "kafka.admin.ConfigCommand",
            Self::GetOffsets => "org.apache.kafka.tools.GetOffsetShell",
            Self::ConsoleConsumer => "org.apache.kafka.tools.consumer.ConsoleConsumer",
            Self::VerifiableProducer => "org.apache.kafka.tools.VerifiableProducer",
        }
    }

    pub(super) fn run(
        self,
        launch: &Launch,
        bootstrap: &str,
        arguments: &[String],
    ) -> Result<String, String> {
        let mut words: Vec<&str> = JVM.to_vec();
        // Its log would stand between what it says.
        words.extend([
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
            self.class(),
            "--bootstrap-server",
            bootstrap,
        ]);
        words.extend(arguments.iter().map(String::as_str));
        run_tool(launch.command(&words), WITHIN)
    }
}
