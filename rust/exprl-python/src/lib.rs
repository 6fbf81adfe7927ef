//! `exprl._core`: convert, detach, call, map the error; nothing else lives here.

use pyo3::prelude::*;

/// The Rust core of exprl.
#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
