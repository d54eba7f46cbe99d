//! People: arguments in, text and exit codes out. The only layer that prints.

mod args;
mod bench;
mod export;
mod inspect;
mod judge;
mod pipelines;
mod policies;
mod progress;
mod render;
mod report;
mod results;
mod show;
mod upkeep;

use args::{Args, Command};
use clap::Parser;
use mindgap_base::error::{Error, Kind, Result};
use mindgap_lm::model::ops::isa::Isa;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Parses the command line, runs the command, prints what went wrong.
pub fn run() -> ExitCode {
    let args = Args::parse();
    if let Command::Contained { plan } = &args.command {
        let (code, why) = crate::child::enter(plan);
        if !why.is_empty() {
            render::note(&why);
        }
        return ExitCode::from(code);
    }
    std::panic::set_hook(Box::new(render::panic));
    let Ok(done) = catch_unwind(AssertUnwindSafe(|| dispatch(args))) else {
        return ExitCode::from(Kind::Internal.exit_code());
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output went away: nothing to tell anyone.
        Err(error) if error.io_kind() == Some(ErrorKind::BrokenPipe) => ExitCode::SUCCESS,
        Err(error) => {
            render::error(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Says of work that a stranger's file asks for that it wants too much memory; the exit code is that of bad input.
pub fn too_large(what: &str) -> u8 {
    let error = Error::input(what).hint("what is finished is kept; nothing in earnest comes near the limit");
    render::error(&error);
    error.kind().exit_code()
}

fn dispatch(args: Args) -> Result<()> {
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|e| Error::new(Kind::Environment, "cannot start worker threads").source(e))?;
    Isa::from_env()?;
    match args.command {
        Command::Run(command) => pipelines::run(&args.store, command, threads, cancel_on_signal()?),
        Command::Work(command) => pipelines::work(&args.store, command, threads, cancel_on_signal()?),
        Command::Plan(command) => pipelines::plan(&args.store, command.stages),
        Command::Status(command) => pipelines::status(&args.store, command),
        Command::Path(command) => inspect::path(&args.store, command),
        Command::Show(command) => show::show(&args.store, command),
        Command::Log(command) => inspect::log(&args.store, command),
        Command::Check(command) => upkeep::check(&args.store, command),
        Command::Gc(command) => upkeep::gc(&args.store, command),
        Command::Report(command) => report::report(&args.store, command),
        Command::Results(command) => results::results(&args.store, command),
        Command::Export(command) => export::export(&args.store, command),
        Command::Judge(command) => judge::judge(command),
        Command::Score(command) => policies::score(command, threads, cancel_on_signal()?),
        Command::Generate(command) => policies::generate(command, threads, cancel_on_signal()?),
        Command::Bench(command) => bench::bench(&args.store, command, threads, cancel_on_signal()?),
        Command::Contained { .. } => Err(Error::internal("a contained process comes here no more")),
        Command::Completions { shell } => {
            args::completions(shell);
            Ok(())
        }
    }
}

/// Set by the first SIGINT or SIGTERM; a second one ends the process at once.
fn cancel_on_signal() -> Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, Kind::Interrupted.exit_code().into(), cancel.clone())
            .and_then(|_| signal_hook::flag::register(signal, cancel.clone()))
            .map_err(|e| Error::environment("cannot install signal handlers").source(e))?;
    }
    Ok(cancel)
}
