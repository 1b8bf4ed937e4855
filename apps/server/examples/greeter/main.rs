//! A server of one's own: Gantry's, and a plugin beside it.
//!
//! ```sh
//! cargo run --example greeter
//! curl http://127.0.0.1:8080/greeter/ada
//! ```

#[expect(unreachable_pub, reason = "written as a plugin's crate would be")]
mod plugin;

use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    server::run(|host| host.plugin(Arc::new(plugin::GreeterPlugin::new("1.0.0")?)))
}
