//! Compiles the XDP programs in `bpf/` with clang, through libbpf-cargo.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// `bpf/NAME.bpf.c` becomes `NAME.bpf.o`.
const PROGRAMS: [&str; 2] = ["steer", "probe"];

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let found = Command::new(&clang).arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        return Err(format!(
            "clang is needed to compile the programs in bpf/, and `{}` does not run. Install it \
             (Debian: apt-get install clang llvm libelf-dev zlib1g-dev linux-libc-dev) or name \
             it in the variable CLANG.",
            clang.to_string_lossy()
        )
        .into());
    }
    let objects = PathBuf::from(env::var("OUT_DIR")?);
    for program in PROGRAMS {
        libbpf_cargo::SkeletonBuilder::new()
            .source(format!("bpf/{program}.bpf.c"))
            .obj(objects.join(format!("{program}.bpf.o")))
            .clang(&clang)
            .clang_args(arguments()?)
            .build()
            // The chain of causes ends with what clang said.
            .map_err(|error| format!("{error:#}"))?;
    }
    Ok(())
}

/// Kernel headers include `asm/`, which Debian and its kin keep under the name of the target.
fn arguments() -> Result<Vec<String>, Box<dyn Error>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    Ok(vec![
        "-Wall".into(),
        "-Werror".into(),
        "-mcpu=v3".into(),
        format!("-I/usr/include/{arch}-linux-gnu"),
    ])
}
