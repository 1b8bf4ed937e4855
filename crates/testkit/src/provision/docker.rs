//! Containers, where an engine answers.

use std::process::Command;

use super::tool::ASK;
use super::{KAFKA_VERSION, Launch, Program, Provision, on_path, run_tool};

pub(super) fn find(provision: &Provision, program: Program) -> Result<(Launch, String), String> {
    let docker = on_path(&provision.path, "docker").ok_or("no docker on the PATH")?;
    let docker_with = |arguments: &[&str]| {
        let mut command = Command::new(&docker);
        command.args(arguments);
        command
    };
    run_tool(docker_with(&["info", "--format", "{{.ServerVersion}}"]), ASK)
        .map_err(|_| "no docker engine answers".to_owned())?;
    let image = match program {
        Program::RedisServer | Program::RedisCli => "redis:7".to_owned(),
        Program::Etcd | Program::Etcdctl => "quay.io/coreos/etcd:v3.5.21".to_owned(),
        Program::Kafka => format!("apache/kafka:{KAFKA_VERSION}"),
        Program::Kcat => "edenhill/kcat:1.7.1".to_owned(),
    };
    if run_tool(docker_with(&["image", "inspect", &image]), ASK).is_err() {
        run_tool(docker_with(&["pull", "--quiet", &image]), provision.fetch_time(&image)?)?;
    }
    let launch = match program {
        Program::Kafka => Launch::boxed("java", docker, &image).before(["-cp", "/opt/kafka/libs/*"]),
        other => Launch::boxed(other.name(), docker, &image),
    };
    Ok((launch, format!("Docker ({image})")))
}
