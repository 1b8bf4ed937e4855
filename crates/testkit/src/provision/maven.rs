//! Kafka from Maven Central: the jars of `org.apache.kafka:kafka_2.13` and of its tools, copied beside each
//! other. There is no Kafka in distributions, and Maven is how Java's users get at what it is made of.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use super::tool::ASK;
use super::{KAFKA_VERSION, Launch, Program, Provision, on_path, run_tool};

/// The oldest Java that Kafka 4 runs on.
const OLDEST_JAVA: u32 = 17;

/// Pinned, as what a Maven takes by itself depends on the Maven.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

pub(super) fn find(provision: &Provision, program: Program) -> Result<(Launch, String), String> {
    if program != Program::Kafka {
        return Err(String::new());
    }
    let made = provision.once(&format!("kafka-{KAFKA_VERSION}"), |staging| fetch(provision, staging))?;
    let libraries = made.join("libs");
    Ok((java(&provision.path, &libraries)?, format!("Maven Central ({})", libraries.display())))
}

/// A Java that has these jars on its class path; the main class comes first among the arguments.
pub(super) fn java(path: &OsStr, libraries: &Path) -> Result<Launch, String> {
    let java = on_path(path, "java").ok_or("no java on the PATH, which Kafka needs")?;
    let mut ask = Command::new(&java);
    ask.arg("-version");
    let said = run_tool(ask, ASK)?;
    match major_in(&said) {
        Some(major) if major >= OLDEST_JAVA => {
            let jars = libraries.join("*").into_os_string();
            Ok(Launch::local(java).before([OsStr::new("-cp"), &jars]))
        }
        Some(major) => Err(format!("the java on the PATH is {major}; Kafka needs {OLDEST_JAVA}")),
        None => Err("the java on the PATH does not tell its version".into()),
    }
}

fn fetch(provision: &Provision, staging: &Path) -> Result<(), String> {
    let maven = on_path(&provision.path, "mvn").ok_or("no mvn on the PATH")?;
    std::fs::write(staging.join("pom.xml"), pom()).map_err(|error| error.to_string())?;
    let mut copy = Command::new(maven);
    copy.args(["-q", "-B", COPY, "-DincludeScope=runtime", "-DoutputDirectory=libs"]).current_dir(staging);
    // What a parent Maven set for itself is not for this one.
    copy.env_remove("MAVEN_OPTS").env("PATH", &provision.path);
    run_tool(copy, provision.fetch_time("the jars")?)?;
    let count = std::fs::read_dir(staging.join("libs")).map(Iterator::count).unwrap_or_default();
    if count == 0 { Err("mvn copied no jars".into()) } else { Ok(()) }
}

/// A project that is nothing but a list of dependencies. Kafka's poms leave the choice of a logger open.
fn pom() -> String {
    let dependency = |group: &str, name: &str, version: &str| {
        format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>\
             <version>{version}</version></dependency>\n"
        )
    };
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n  <modelVersion>4.0.0</modelVersion>\n  \
         <groupId>testkit</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>\n  \
         <dependencies>\n{}{}{}  </dependencies>\n</project>\n",
        dependency("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        dependency("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
        dependency("org.slf4j", "slf4j-simple", "1.7.36"),
    )
}

/// The 17 of `openjdk version "17.0.15" 2025-04-15`.
fn major_in(said: &str) -> Option<u32> {
    said.split('"').nth(1)?.split(['.', '-', '+']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_java_is_read() {
        assert_eq!(major_in("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK"), Some(17));
        assert_eq!(major_in("openjdk version \"25-ea\" 2025"), Some(25));
        assert_eq!(major_in("java version \"1.8.0_402\""), Some(1));
        assert_eq!(major_in("no java"), None);
    }
}
