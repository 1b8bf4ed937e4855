//! Foreign clients: programs that speak a server's protocol and share no code with Gantry.

use super::{Program, tool};
use crate::{ControlError, background};

/// Runs a client such as `redis-cli`, `etcdctl` or `kcat` to its end, with `input` on its standard input, and
/// gives what it printed.
///
/// # Errors
///
/// [`ControlError::Start`] where it is not to be had; [`ControlError::Ask`], with what it printed, where it
/// fails or takes longer than half a minute.
pub async fn client(program: Program, arguments: &[&str], input: &str) -> Result<String, ControlError> {
    let found = super::find(program).await?;
    let command = found.launch.command(arguments);
    let input = input.to_owned();
    let ran = background::blocking(move || Ok(tool::run_with_input(command, tool::ASK, &input))).await?;
    ran.map_err(|what| ControlError::Ask { server: program.name().into(), what })
}
