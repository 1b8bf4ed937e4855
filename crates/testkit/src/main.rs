//! The program of this crate: what `cargo xtask services` starts, and what `cargo xtask test` asks first.

#![expect(clippy::print_stdout, reason = "a program: its output is its purpose")]

mod measure;

use std::process::ExitCode;
use std::time::Duration;

use testkit::provision::{self, Program, Provision};
use testkit::{Condition, Service, Services, StartError};

/// How long fetching what is missing may take, altogether.
const PROVIDE: Duration = Duration::from_secs(600);

const HELP: &str = include_str!("../help.txt");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let done = match (words.as_slice(), runtime) {
        (_, Err(error)) => Err(format!("start a runtime: {error}")),
        ([] | ["help" | "-h" | "--help", ..] | [_, "-h" | "--help"], _) => {
            print!("{HELP}");
            Ok(true)
        }
        (["provide", names @ ..], _) => provide(names),
        (["measure", rest @ ..], Ok(runtime)) => runtime.block_on(measure::run(rest)),
        ([command @ ("up" | "down" | "wipe" | "status"), names @ ..], Ok(runtime)) => {
            runtime.block_on(services(command, names))
        }
        ([other, ..], _) => Err(format!("no command `{other}`; `--help` lists them")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn provide(names: &[&str]) -> Result<bool, String> {
    let named = |name: &&str| {
        Program::named(name).ok_or_else(|| {
            let known: Vec<&str> = Program::ALL.iter().map(|program| program.name()).collect();
            format!("no program `{name}`; there are {}", known.join(", "))
        })
    };
    let mut programs = names.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    if programs.is_empty() {
        programs = Program::ALL.to_vec();
    }
    for variable in testkit::ADDRESSES {
        if let Some(addresses) = std::env::var(variable).ok().filter(|addresses| !addresses.is_empty()) {
            println!("{addresses} from {variable}, for tests that hurt nothing");
        }
    }
    let report = provision::report(&Provision::from_environment().within(PROVIDE), &programs);
    print!("{report}");
    Ok(report.is_complete() || !testkit::ci())
}

/// Whether all that was named is as it was asked to be.
async fn services(command: &str, names: &[&str]) -> Result<bool, String> {
    let named =
        |name: &&str| Service::named(name).ok_or_else(|| format!("no service `{name}`; `--help` lists them"));
    let mut chosen = names.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    if chosen.is_empty() {
        chosen = Service::ALL.to_vec();
    }
    let services = Services::new(Provision::from_environment());
    let mut fine = true;
    for service in chosen {
        let standing = match command {
            "up" => services.up(service).await,
            "down" => services.down(service).await,
            "wipe" => match services.down(service).await {
                Ok(standing) => services.wipe(service).map(|()| standing),
                Err(error) => Err(error),
            },
            _ => services.status(service).await,
        };
        match standing {
            Ok(standing) => {
                standing.iter().for_each(|one| println!("{one}"));
                let up = |one: &testkit::Standing| matches!(one.state, Condition::Ready | Condition::Foreign);
                fine &= command != "up" || standing.iter().all(up);
            }
            // The others may be all that the person wants.
            Err(error) => {
                eprintln!("error: failed to {}", chain(&error));
                fine = false;
            }
        }
    }
    Ok(fine)
}

fn chain(error: &StartError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
