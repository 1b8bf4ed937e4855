//! A ring beside a model of it: any sequence of publishing, reading, joining and leaving.

use std::collections::VecDeque;

use proptest::prelude::*;
use runtime::SystemClock;
use serde_json::json;

use super::*;
use crate::topic::Topic;

#[derive(Debug, Clone)]
enum Step {
    Publish(u64),
    /// One of the members fetches what there is, if its hands are empty, and handles so many.
    Read(usize, u64),
    /// One of the members goes to sleep where it can, with nothing left in its hands.
    Sleep(usize),
    /// With this capacity; whether it is disconnected where it falls behind, if the ring lets it.
    Join(usize, bool),
    Leave(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..150_u64).prop_map(Step::Publish),
        6 => (0..4_usize, 1..100_u64).prop_map(|(who, most)| Step::Read(who, most)),
        2 => (0..4_usize).prop_map(Step::Sleep),
        1 => (1..200_usize, any::<bool>()).prop_map(|(capacity, strict)| Step::Join(capacity, strict)),
        1 => (0..4_usize).prop_map(Step::Leave),
    ];
    prop::collection::vec(step, 1..80)
}

/// A member and what the model says that it must see next.
struct Reader {
    member: Arc<Member>,
    hands: Hands,
    overflow: Overflow,
    capacity: usize,
    waiting: VecDeque<u64>,
    dropped: u64,
    accepted: u64,
    has_left: bool,
}

impl Reader {
    /// What its policy takes away before it looks; `false` where it has fallen too far behind.
    fn overflows(&mut self) -> bool {
        let surplus = self.waiting.len().saturating_sub(self.capacity);
        match self.overflow {
            Overflow::Block => true,
            // What it has in hand is not taken from it; it is told when it comes for more.
            Overflow::Disconnect if !self.hands.is_empty() => true,
            Overflow::Disconnect if !self.has_left => surplus == 0,
            _ => {
                drop(self.waiting.drain(..surplus));
                self.dropped += surplus as u64;
                true
            }
        }
    }
}

fn number(entry: &Entry) -> u64 {
    entry.event.data().as_u64().unwrap_or(u64::MAX)
}

struct Case {
    ring: Arc<Ring>,
    readers: Vec<Reader>,
    next: u64,
    topic: Topic,
}

impl Case {
    fn new(class: RingClass) -> Self {
        let ring = Arc::new(Ring::new(1, class));
        Self { ring, readers: Vec::new(), next: 0, topic: Topic::new("a").unwrap() }
    }

    fn publish(&mut self) {
        let event = Event::builder(self.topic.clone()).data(json!(self.next)).build(&SystemClock).unwrap();
        let mut entry = Some(Entry { event, ack: None });
        let mut made = Push::default();
        let outcome = push(std::slice::from_ref(&self.ring), &mut entry, &mut made, || true);
        if let Some(leftovers) = made.leftovers.take() {
            leftovers.settle();
        }
        let mut members = self.readers.iter_mut().filter(|reader| !reader.has_left).collect::<Vec<_>>();
        let is_full = |reader: &&mut Reader| {
            reader.overflow == Overflow::Block && reader.waiting.len() >= reader.capacity
        };
        if members.iter().any(is_full) {
            assert!(matches!(outcome, Err(Refused::Full(_))), "written though there was no room");
            return;
        }
        assert!(outcome.is_ok(), "refused though there was room");
        assert_eq!(made.delivered_to, members.len());
        for reader in &mut members {
            reader.waiting.push_back(self.next);
            reader.accepted += 1;
        }
        self.next += 1;
    }

    fn look(&mut self, who: usize, most: u64, waker: Option<&Waker>) {
        if self.readers.is_empty() {
            return;
        }
        let who = who % self.readers.len();
        let reader = &mut self.readers[who];
        let in_time = reader.overflows();
        self.ring.skip_late(&reader.member, &mut reader.hands, &mut |_| {});
        if reader.hands.is_empty() {
            reader.hands.clear();
            let found = self.ring.read(&reader.member, &mut reader.hands, waker, &mut |_| {});
            let expected = match (in_time, reader.waiting.is_empty(), reader.has_left) {
                (false, ..) => Found::TooLate,
                (_, false, _) => Found::Entries,
                (_, true, true) => Found::End,
                (_, true, false) => Found::Nothing,
            };
            assert_eq!(found, expected);
        }
        for _ in 0..most {
            let Some(entry) = reader.hands.current() else { break };
            assert_eq!(Some(number(entry)), reader.waiting.pop_front(), "lost, doubled or out of order");
            reader.hands.next();
            reader.member.advance(reader.member.cursor() + 1);
        }
        let surplus = if reader.overflow == Overflow::Block {
            0
        } else {
            reader.waiting.len().saturating_sub(reader.capacity) as u64
        };
        assert_eq!(self.ring.depth(&reader.member), reader.waiting.len() as u64 - surplus);
        assert_eq!(self.ring.dropped(&reader.member), reader.dropped + surplus);
        assert_eq!(self.ring.accepted(&reader.member), reader.accepted);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish(count) => (0..*count).for_each(|_| self.publish()),
            Step::Read(who, most) => self.look(*who, *most, None),
            Step::Sleep(who) => self.look(*who, 0, Some(Waker::noop())),
            Step::Join(capacity, strict) if self.readers.len() < 6 => {
                let overflow = match (self.ring.front.class, strict) {
                    (RingClass::Gated, _) => Overflow::Block,
                    (_, true) => Overflow::Disconnect,
                    (_, false) => Overflow::DropOldest,
                };
                let mut held = Held::new([&self.ring]);
                let member = held.log(&self.ring).unwrap().join(overflow, *capacity);
                held.release();
                self.readers.push(Reader {
                    member,
                    hands: Hands::default(),
                    overflow,
                    capacity: *capacity,
                    waiting: VecDeque::new(),
                    dropped: 0,
                    accepted: 0,
                    has_left: false,
                });
            }
            Step::Join(..) => {}
            Step::Leave(who) if !self.readers.is_empty() => {
                let who = who % self.readers.len();
                let mut leftovers = Leftovers::default();
                let mut held = Held::new([&self.ring]);
                held.log(&self.ring).unwrap().leave(&self.readers[who].member, &mut leftovers);
                held.release();
                leftovers.settle();
                self.readers[who].has_left = true;
            }
            Step::Leave(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_does_what_its_model_says(steps in steps(), waits in any::<bool>()) {
        let mut case = Case::new(if waits { RingClass::Gated } else { RingClass::Free });
        case.step(&Step::Join(100, false));
        for step in &steps {
            case.step(step);
        }
        // In the end everybody gets the rest.
        for who in 0..case.readers.len() {
            case.step(&Step::Leave(who));
            // A chunk at a time, of which some hold one entry.
            for _ in 0..200 {
                case.look(who, u64::MAX, None);
            }
            prop_assert!(case.readers[who].waiting.is_empty());
        }
    }
}
