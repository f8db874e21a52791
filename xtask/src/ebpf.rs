//! `cargo xtask ebpf`: builds the kernel half with Debian's compiler, or proves that the checked-in object is
//! what the source builds.
//!
//! The object is checked in so that users need stable Rust only. Debian's `rustc-web` comes with a prebuilt
//! `core` for BPF; rustc hands one bitcode object (fat LTO) to the "linker", which here is a script that calls
//! `llc`. Without debug information the result does not depend on where the source lies. BTF comes from [`func_info`].

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use lab::packages;

use crate::{func_info, setup, sh};

const TARGET: &str = "bpfel-unknown-none";

/// The programs that build and compare the object. They are Debian's in any case: rustup's compiler has no core for BPF.
const TOOLS: [&str; 4] = ["rustc", "llc-22", "llvm-objcopy-22", "llvm-objdump-22"];

/// What rustc runs as linker: `... -o OUT ... ONE_BITCODE_OBJECT ...`.
const LINKER: &str = r#"#!/bin/sh
set -eu
tools=$(dirname "$0")
while [ $# -gt 0 ]; do
    case $1 in
    -o) out=$2; shift ;;
    *.o) objects="${objects-}$1 "; count=$((${count-0} + 1)) ;;
    esac
    shift
done
[ "$count" = 1 ] || { echo "expected one bitcode object, got: $objects" >&2; exit 1; }
"$tools/llc-22" -march=bpf -mcpu=generic -filetype=obj -o "$out" "${objects% }"
# Debian's core brings its debug information along.
exec "$tools/llvm-objcopy-22" --strip-debug "$out"
"#;

/// Options of `cargo xtask ebpf`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing: prove that the checked-in object is what the source builds.
    #[arg(long)]
    check: bool,
}

/// Builds the kernel half and checks it in, or compares it with what is.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::EBPF)?;
    let built = build()?;
    let toolchain = toolchain()?;
    let object = object_dir().join("aoe.o");
    let record = object_dir().join("toolchain.txt");
    if args.check {
        return check(&built, &object, &toolchain, &record);
    }
    std::fs::create_dir_all(object_dir())?;
    std::fs::copy(&built, &object).with_context(|| format!("cannot write {}", object.display()))?;
    std::fs::write(&record, &toolchain).with_context(|| format!("cannot write {}", record.display()))?;
    println!(
        "{}: {} bytes",
        object.display(),
        std::fs::metadata(&object)?.len()
    );
    Ok(())
}

fn object_dir() -> PathBuf {
    sh::root().join("aoe-user/src/filter/object")
}

fn build() -> Result<PathBuf> {
    let target_dir = sh::root().join("target/bpf");
    let linker = tool("llc-linker");
    script(&linker, LINKER)?;
    for name in TOOLS {
        let words = packages::words_of_file(&format!("/usr/bin/{name}"));
        let words: Vec<String> = words.iter().map(|word| format!("'{}'", word.display())).collect();
        script(
            &tool(name),
            &format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")),
        )?;
    }

    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(sh::root())
        // What a user's rustup, cargo or wrapper settings add must not end up in the object.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env("RUSTFLAGS", "")
        .env("RUSTC", tool("rustc"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0")
        .args(["build", "--package", "aoe-ebpf", "--release", "--locked"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir);
    sh::run(&mut cargo)?;
    add_func_info(&target_dir.join(TARGET).join("release/aoe-ebpf"))
}

/// The object with BTF in place of LLVM's, which is empty without debug information.
fn add_func_info(object: &Path) -> Result<PathBuf> {
    let mut objdump = Command::new(tool("llvm-objdump-22"));
    let symbols = sh::output(objdump.arg("--syms").arg(object))?;
    let sections = func_info::of(&String::from_utf8(symbols)?)?;
    let result = object.with_extension("o");
    let mut objcopy = Command::new(tool("llvm-objcopy-22"));
    objcopy.args(["--remove-section", ".BTF"]);
    for (name, bytes) in [(".BTF", &sections.btf), (".BTF.ext", &sections.ext)] {
        let file = object.with_extension(name.trim_start_matches('.'));
        std::fs::write(&file, bytes)?;
        objcopy
            .arg("--add-section")
            .arg(format!("{name}={}", file.display()));
    }
    sh::run(objcopy.arg(object).arg(&result))?;
    Ok(result)
}

/// Where a tool is started from, installed or unpacked.
fn tool(name: &str) -> PathBuf {
    sh::root().join("target/bpf/tools").join(name)
}

fn script(path: &Path, text: &str) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("a path without a directory")?)?;
    std::fs::write(path, text)?;
    Ok(std::fs::set_permissions(
        path,
        std::fs::Permissions::from_mode(0o755),
    )?)
}

/// The lines that name what builds the object.
fn toolchain() -> Result<String> {
    let rustc = sh::output(Command::new(tool("rustc")).arg("--version"))?;
    let llc = sh::output(Command::new(tool("llc-22")).arg("--version"))?;
    let llc = String::from_utf8_lossy(&llc);
    let llc = llc
        .lines()
        .find(|line| line.contains("version"))
        .context("llc-22 names no version")?;
    Ok(format!(
        "{}\n{}\n",
        String::from_utf8_lossy(&rustc).trim(),
        llc.trim()
    ))
}

fn check(built: &Path, object: &Path, toolchain: &str, record: &Path) -> Result<()> {
    let recorded =
        std::fs::read_to_string(record).with_context(|| format!("cannot read {}", record.display()))?;
    let hint = "run `cargo xtask ebpf` and commit the result";
    if recorded == toolchain {
        let read =
            |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        if read(built)? != read(object)? {
            bail!("{} is not what the source builds: {hint}", object.display());
        }
        println!("{} is, byte for byte, what the source builds", object.display());
    } else {
        if disassemble(built)? != disassemble(object)? {
            bail!(
                "{} has other instructions than the source builds: {hint}\nbuilt with\n{toolchain}recorded\n{recorded}",
                object.display()
            );
        }
        println!(
            "{} has the instructions that the source builds (with another toolchain)",
            object.display()
        );
    }
    Ok(())
}

/// Instructions, relocations and symbols; all but the file's own name.
fn disassemble(object: &Path) -> Result<String> {
    let mut objdump = Command::new(tool("llvm-objdump-22"));
    objdump
        .args(["--disassemble", "--reloc", "--syms", "--no-show-raw-insn"])
        .arg(object);
    let text = String::from_utf8(sh::output(&mut objdump)?)?;
    Ok(text
        .lines()
        .filter(|line| !line.contains("file format"))
        .collect::<Vec<_>>()
        .join("\n"))
}
