//! Random requests against a model of what they lead to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plugin_core::{PluginError, State};
use plugin_manager::{Change, PluginManager, PluginOptions};
use proptest::prelude::*;

use crate::bench::{Log, Sample, manager, topics};
use crate::lifecycle::never;

#[derive(Debug, Clone, Copy)]
enum Request {
    Initialize(usize),
    Start(usize, bool),
    Stop(usize, bool),
    Restart(usize),
    /// From now on the plugin's start fails, or works.
    Break(usize, bool),
}

/// `p0 <- p1 <- p2`, `p0 <- p3`.
const NEEDS: [&[usize]; 4] = [&[], &[0], &[1], &[0]];

/// What the requests should lead to, plugin by plugin, written without the manager's means.
#[derive(Debug)]
struct Model {
    states: [State; 4],
    broken: [bool; 4],
    /// Told to run, and waiting for what they need.
    waiting: [bool; 4],
}

impl Model {
    fn users(&self, i: usize) -> Vec<usize> {
        (0..4).filter(|j| NEEDS[*j].contains(&i) && self.states[*j] == State::Running).collect()
    }

    fn runs(&self, i: usize) -> bool {
        self.states[i] == State::Running
    }

    /// Starts `i`, whose needs run; says whether that went well.
    fn up(&mut self, i: usize) -> bool {
        self.states[i] = if self.broken[i] { State::Failed } else { State::Running };
        self.waiting[i] = false;
        !self.broken[i]
    }

    fn down(&mut self, i: usize, taken: &mut Vec<usize>) {
        for user in self.users(i) {
            self.down(user, taken);
        }
        if self.runs(i) {
            self.states[i] = State::Stopped;
            taken.push(i);
        }
    }

    fn start(&mut self, i: usize, cascade: bool) -> bool {
        for need in NEEDS[i] {
            if cascade && !self.runs(*need) && !self.start(*need, true) {
                return false;
            }
        }
        if NEEDS[i].iter().all(|need| self.runs(*need)) {
            return self.up(i);
        }
        self.waiting[i] = NEEDS[i].iter().all(|need| self.runs(*need) || self.waiting[*need]);
        self.waiting[i]
    }

    /// What waits starts by itself once what it needs is there.
    fn settle(&mut self) {
        for (i, needs) in NEEDS.iter().enumerate() {
            if self.waiting[i] && needs.iter().all(|need| self.runs(*need)) {
                self.up(i);
            }
        }
    }

    /// Does what the request says; tells whether it is granted.
    fn apply(&mut self, request: Request) -> bool {
        match request {
            Request::Break(i, broken) => {
                self.broken[i] = broken;
                true
            }
            Request::Initialize(i) => {
                let allowed = matches!(self.states[i], State::Registered | State::Stopped | State::Failed);
                if allowed {
                    self.states[i] = State::Initialized;
                }
                allowed
            }
            Request::Start(i, _) if self.runs(i) => false,
            Request::Start(i, cascade) => self.start(i, cascade),
            Request::Stop(i, _) if !self.runs(i) => std::mem::take(&mut self.waiting[i]),
            Request::Stop(i, false) if !self.users(i).is_empty() => false,
            Request::Stop(i, _) => {
                self.down(i, &mut Vec::new());
                true
            }
            Request::Restart(i) => {
                let mut taken = Vec::new();
                self.down(i, &mut taken);
                taken.retain(|taken| *taken != i);
                let came = self.up(i);
                taken.iter().for_each(|taken| self.waiting[*taken] = true);
                came
            }
        }
    }
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        1 => (0_usize..4).prop_map(Request::Initialize),
        4 => (0_usize..4, any::<bool>()).prop_map(|(i, cascade)| Request::Start(i, cascade)),
        3 => (0_usize..4, any::<bool>()).prop_map(|(i, cascade)| Request::Stop(i, cascade)),
        // Of the one that needs nothing; a restart of another is a stop and a start.
        1 => Just(Request::Restart(0)),
        1 => (0_usize..4, any::<bool>()).prop_map(|(i, broken)| Request::Break(i, broken)),
    ]
}

fn host(broken: &[Arc<AtomicBool>; 4]) -> PluginManager {
    let (log, manager) = (Log::default(), manager());
    for (i, needs) in NEEDS.iter().enumerate() {
        let flag = broken[i].clone();
        let mut plugin = Sample::new(&format!("p{i}"), &log).starts(move |_| {
            let broken = flag.load(Ordering::SeqCst);
            async move { if broken { Err(PluginError::new("broken")) } else { Ok(()) } }
        });
        for need in *needs {
            plugin = plugin.needs(&format!("p{need}"));
        }
        plugin.add_with(&manager, PluginOptions { restart: Some(never()), ..PluginOptions::default() });
    }
    manager
}

async fn ask(manager: &PluginManager, broken: &[Arc<AtomicBool>; 4], request: Request) -> bool {
    let name = |i: usize| format!("p{i}");
    let change = |cascade| Change { cascade, ..Change::default() };
    match request {
        Request::Break(i, value) => {
            broken[i].store(value, Ordering::SeqCst);
            true
        }
        Request::Initialize(i) => manager.initialize(&name(i)).await.is_ok(),
        Request::Start(i, cascade) => manager.start(&name(i), change(cascade)).await.is_ok(),
        Request::Stop(i, cascade) => manager.stop(&name(i), change(cascade)).await.is_ok(),
        Request::Restart(i) => manager.restart(&name(i), change(false)).await.is_ok(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_requests_lead_where_the_model_says(requests in proptest::collection::vec(request(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let broken: [Arc<AtomicBool>; 4] = Default::default();
            let manager = host(&broken);
            let mut model = Model { states: [State::Registered; 4], broken: [false; 4], waiting: [false; 4] };
            for request in requests {
                let granted = ask(&manager, &broken, request).await;
                // Time is paused: it passes when everybody rests.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                let expected = model.apply(request);
                model.settle();
                let states: Vec<_> = (0..4).map(|i| manager.registry().state(&format!("p{i}"))).collect();
                prop_assert_eq!(&states, &model.states, "after {:?}", request);
                prop_assert_eq!(granted, expected, "{:?}", request);
            }
            // The events tell the same story, each step leading on from the one before.
            for i in 0..4 {
                let name = format!("p{i}");
                let mut at = State::Unknown;
                for event in crate::bench::events(&manager, &name) {
                    let steps: BTreeMap<_, _> = event.data().as_object().unwrap().iter().collect();
                    if let (Some(from), Some(to)) = (steps.get(&"from".to_owned()), steps.get(&"to".to_owned())) {
                        let state = |value: &serde_json::Value| serde_json::from_value::<State>(value.clone()).unwrap();
                        prop_assert_eq!(state(from), if at == State::Unknown { State::Registered } else { at });
                        at = state(to);
                    }
                }
                let last = if at == State::Unknown { State::Registered } else { at };
                prop_assert_eq!(last, manager.registry().state(&name), "{:?}", topics(&manager, &name));
            }
            Ok(())
        })?;
    }
}
