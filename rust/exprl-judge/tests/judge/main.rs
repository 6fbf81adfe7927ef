//! The dispatcher against real servers in this process.

mod blocking;
mod dispatch;
mod faults;
mod limits;
mod streaming;
mod support;
