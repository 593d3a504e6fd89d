//! The `ostro` command.

fn main() -> std::process::ExitCode {
    ostro::commands::main()
}
