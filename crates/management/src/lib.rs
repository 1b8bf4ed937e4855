//! The operations that an operator of a host has, each once, for every transport to call.
//!
//! Layer 5. HTTP and gRPC only translate: what an operation asks of its caller, what it checks, what it
//! refuses and in which words, and that a write is recorded, is decided here. Invariants:
//!
//! - A method checks the role first and the input next, and changes nothing if either is wrong.
//! - Every write is in the audit log, refused ones too.
//! - A [`Problem`] can be shown to the caller as it is: it holds no secret and no inside of the host.
//!
//! ```
//! use management::{Caller, Management, ProblemKind};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let management = Management::builder().node("one").build();
//! let refused = management.task(&Caller::host(), "beat").await.unwrap_err();
//! assert_eq!(refused.kind, ProblemKind::NotAvailable);
//! # }
//! ```
//!
//! Features: `jwt` takes JSON Web Tokens beside API tokens; `test-util` adds `rate_limit_contract`, the tests that every [`RateLimitStore`] passes.

mod access;
mod audit;
mod caller;
mod dead_letters;
mod events;
mod health;
mod idempotency;
mod management;
mod page;
mod permission;
mod plugins;
mod problem;
mod rate_limit;
mod recent;
mod services;
mod settings;
mod tasks;
mod tokens;

pub use access::{
    AccessConfig, AccessError, ApiToken, Authenticator, InvalidAccess, JwtConfig, NewToken, TokenError,
    TokenFile, TokenRequest,
};
pub use audit::AuditEntry;
pub use caller::{Caller, Origin, Role};
pub use dead_letters::{
    DeadLetterAction, DeadLetterBatch, DeadLetterOutcome, DeadLetterReport, DeadLetterSelection,
};
pub use events::{EventFilter, PublishedEvent, TestEventRequest};
pub use health::{HealthReport, PluginHealth, Readiness};
pub use idempotency::{Claim, IdempotencyStore, Idempotent, StoredAnswer};
pub use management::{Management, ManagementBuilder};
pub use page::{PAGE_DEFAULT, PAGE_MAX, Page, PageRequest};
pub use permission::Permission;
pub use plugins::{ConfigApplied, LifecycleAction, LifecycleOptions, PluginConfig, Progress};
pub use problem::{Problem, ProblemKind};
#[cfg(any(test, feature = "test-util"))]
pub use rate_limit::contract as rate_limit_contract;
pub use rate_limit::{InvalidRate, MemoryRateLimitStore, Rate, RateDecision, RateLimitError, RateLimitStore};
pub use services::{ClusterView, NodeInfo, ServiceInfo, ServiceInstance, ServiceTest};
pub use settings::ConfigValue;
pub use tasks::{PreviewRequest, TaskExport, TriggerRequest};
