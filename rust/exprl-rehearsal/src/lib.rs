//! A judge that grades by rule, behind the same wire as a real one: for tests, the demo and rehearsals.
//!
//! `POST /v1/chat/completions`, `GET /v1/models`, `/health`, `/metrics` and `/stats`. It reads the request
//! as a judge would, from the layout of `exprl-rubric`, and answers in words that end with `Score: n`:
//! whole or streamed, with log-probabilities, as JSON or as one of the choices that it is given. Asked
//! for a problem's checklist, it makes one of the reference's lines.

mod asked;
mod body;
mod checklist;
mod config;
mod division;
mod error;
mod faults;
mod judgement;
mod numbers;
mod reply;
mod routes;
mod rule;
mod server;
mod state;
mod stats;
mod wire;

pub use config::Config;
pub use error::Error;
pub use faults::Faults;
pub use judgement::Judgement;
pub use rule::Rule;
pub use server::{Handle, serve};
pub use stats::Stats;
