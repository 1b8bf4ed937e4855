//! A host with everything behind it, in memory.

use event_bus::EventBus;
use http_api::{Api, HttpConfig};
use management::Management;
use scheduler::Scheduler;

/// The parts of a host, to be looked at from behind.
pub(crate) struct Host {
    pub(crate) api: Api,
    pub(crate) bus: EventBus,
    pub(crate) scheduler: Scheduler,
}

pub(crate) async fn host() -> Host {
    host_with(HttpConfig::default()).await
}

pub(crate) async fn host_with(config: HttpConfig) -> Host {
    let bus = EventBus::builder().history(1000).build();
    let scheduler = Scheduler::builder().bus(bus.clone()).node("one").build().await.unwrap();
    let metrics = telemetry::Metrics::builder().build();
    let management = Management::builder()
        .node("one")
        .bus(bus.clone())
        .scheduler(scheduler.clone())
        .metrics(metrics)
        .build();
    Host { api: Api::new(management, config), bus, scheduler }
}
