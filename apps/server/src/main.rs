//! `gantry-server`: the server with the plugins that come with Gantry.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::run(|_| Ok(()))
}
