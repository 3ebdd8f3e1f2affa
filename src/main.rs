//! The `strait` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    strait::cli::run(std::env::args_os())
}
