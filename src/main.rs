use std::process::ExitCode;

fn main() -> ExitCode {
    mindgap::cli::run()
}
