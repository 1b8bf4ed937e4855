//! The plugin on the front page of the README, as it stands there: a test compares the two.

use std::process::ExitCode;
use std::sync::Arc;

use plugin_core::{Endpoint, PluginBuilder, Reply, RouteRequest};
use scheduler::{PluginTasks, RunContext, Task};

fn main() -> ExitCode {
    server::run(|host| {
        let clock = PluginBuilder::new("clock", "1.0.0")?
            .description("tells the time, and says so every minute")
            .depends_on("scheduler", "*")?
            .permission("route:/clock")?
            .permission("task")?
            .on_start(|ctx| async move {
                let clock = ctx.clock();
                ctx.route(Endpoint::get("/clock").public(), move |_: RouteRequest| {
                    let now = clock.now();
                    async move { Ok(Reply::text(now.to_string())) }
                })?;
                ctx.executor("tick", |_: RunContext| async { Ok(()) })?;
                ctx.task(Task::cron("clock-tick", "@every 1m").executor("clock.tick"))?;
                Ok(())
            })
            .build();
        host.plugin(Arc::new(clock))
    })
}
