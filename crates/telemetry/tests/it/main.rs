//! What the crate promises, seen from outside.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod bounds;
mod checker;
mod collectors;
mod deploy;
mod exemplars;
mod exporters;
mod installed;
mod lines;
mod otlp;
mod reference;
mod render;

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

/// Keeps what is logged, to look at it.
#[derive(Clone, Default)]
struct Pages(Arc<Mutex<Vec<u8>>>);

impl Pages {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Pages {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
