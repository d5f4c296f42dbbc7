//! Entry point: everything is in the library.

/// A call is some hundred short-lived allocations on one thread, and then lingers: see `docs/adr/0014-allocator.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ferric::cli::main()
}
