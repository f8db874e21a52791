//! BTF with func info for the kernel half: the name and prototype of each function, which is what `xdpdump`, `bpftool` and
//! `perf` need to attach to a running program.
//!
//! LLVM makes BTF of debug information, but Rust's has type names that the kernel refuses, and depends on where the source
//! lies. What tracing needs is little: a program takes a `struct xdp_md *`, and everything returns an int.

use anyhow::{Context as _, Result, ensure};

/// What `.BTF` and `.BTF.ext` of an object contain.
pub(crate) struct Sections {
    pub(crate) btf: Vec<u8>,
    pub(crate) ext: Vec<u8>,
}

/// The section of functions that programs call; those in others are programs.
const CALLED: &str = ".text";

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: u32 = 24;
const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const STATIC: u32 = 0;
const GLOBAL: u32 = 1;
/// `sizeof(struct xdp_md)`. The kernel knows the type by its name and asks for no members.
const XDP_MD_BYTES: u32 = 24;
/// An int's encoding: signed, 32 bits.
const SIGNED_32: u32 = 1 << 24 | 32;
/// Bytes of `struct bpf_func_info`.
const RECORD_BYTES: u32 = 8;

/// A function of the object.
#[derive(Debug, PartialEq)]
struct Function {
    section: String,
    offset: u32,
    name: String,
}

/// Both sections for an object whose symbols `llvm-objdump --syms` lists so.
pub(crate) fn of(symbols: &str) -> Result<Sections> {
    let functions = functions(symbols)?;
    let mut btf = Btf::new();
    let int = btf.named("int", KIND_INT, 0, 4, &[SIGNED_32]);
    let context = btf.named("xdp_md", KIND_STRUCT, 0, XDP_MD_BYTES, &[]);
    let pointer = btf.named("", KIND_PTR, 0, context, &[]);
    let parameter = [btf.string("ctx"), pointer];
    let program = btf.named("", KIND_FUNC_PROTO, 1, int, &parameter);
    let called = btf.named("", KIND_FUNC_PROTO, 0, int, &[]);

    // By section, each with its records.
    let mut info = vec![RECORD_BYTES];
    for part in functions.chunk_by(|a, b| a.section == b.section) {
        let section = &part[0].section;
        info.extend([btf.string(section), part.len() as u32]);
        for function in part {
            // The kernel verifies global functions by themselves, without what their callers know: for programs only.
            let (prototype, linkage) = if section == CALLED {
                (called, STATIC)
            } else {
                (program, GLOBAL)
            };
            let id = btf.named(&function.name, KIND_FUNC, linkage, prototype, &[]);
            info.extend([function.offset, id]);
        }
    }
    let info = bytes(&info);
    let length = info.len() as u32;
    // Offsets and lengths of function and line records; there are none of lines.
    let mut ext = header(&[0, length, length, 0]);
    ext.extend(info);
    Ok(Sections {
        btf: btf.finish(),
        ext,
    })
}

/// The functions, by section and offset.
fn functions(symbols: &str) -> Result<Vec<Function>> {
    let mut functions = Vec::new();
    for line in symbols.lines() {
        // OFFSET l|g F SECTION SIZE [.hidden] NAME
        let words: Vec<&str> = line.split_whitespace().collect();
        let [offset, _, "F", section, _, .., name] = words[..] else {
            continue;
        };
        let offset = u32::from_str_radix(offset, 16).with_context(|| format!("no offset: {line}"))?;
        functions.push(Function {
            section: section.to_owned(),
            offset,
            name: name.to_owned(),
        });
    }
    ensure!(!functions.is_empty(), "no functions:\n{symbols}");
    functions.sort_by(|a, b| (&a.section, a.offset).cmp(&(&b.section, b.offset)));
    Ok(functions)
}

/// Types and their names.
struct Btf {
    types: Vec<u32>,
    count: u32,
    strings: Vec<u8>,
}

impl Btf {
    fn new() -> Btf {
        Btf {
            types: Vec::new(),
            count: 0,
            // Offset 0 is the empty name.
            strings: vec![0],
        }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        offset
    }

    /// Adds a `struct btf_type` and what follows it; returns its number.
    fn named(&mut self, name: &str, kind: u32, vlen: u32, size_or_type: u32, rest: &[u32]) -> u32 {
        let name = self.string(name);
        self.types.extend([name, kind << 24 | vlen, size_or_type]);
        self.types.extend(rest);
        self.count += 1;
        self.count
    }

    fn finish(self) -> Vec<u8> {
        let types = bytes(&self.types);
        let length = types.len() as u32;
        let mut all = header(&[0, length, length, self.strings.len() as u32]);
        all.extend(types);
        all.extend(self.strings);
        all
    }
}

/// What both sections begin with.
fn header(words: &[u32; 4]) -> Vec<u8> {
    let mut header = MAGIC.to_le_bytes().to_vec();
    // Version 1, no flags.
    header.extend([1, 0]);
    header.extend(bytes(&[HEADER_BYTES]));
    header.extend(bytes(words));
    header
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "
0000000000000000 l    d  .text\t0000000000000000 .text
0000000000000fc0 g     F xdp.frags\t0000000000000010 aoe_pass
0000000000000000 g     F xdp.frags\t0000000000000fc0 aoe_filter
0000000000001158 g     F .text\t0000000000000058 .hidden memcpy
00000000000000c4 g     O maps\t000000000000001c STATE
";

    #[test]
    fn every_function_has_a_record_at_its_offset() {
        let sections = of(SYMBOLS).unwrap();
        let words: Vec<u32> = sections.ext[HEADER_BYTES as usize..]
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        let [8, _, 1, 0x1158, memcpy, _, 2, 0, filter, 0xfc0, pass] = words[..] else {
            panic!("{words:x?}");
        };
        assert_eq!([memcpy, filter, pass], [6, 7, 8]);
        let strings = String::from_utf8_lossy(&sections.btf);
        for name in ["\0xdp_md\0", "\0aoe_filter\0", "\0memcpy\0", "\0xdp.frags\0"] {
            assert!(strings.contains(name), "{name:?}");
        }
    }

    #[test]
    fn an_object_without_functions_is_an_error() {
        assert!(of("SYMBOL TABLE:\n").is_err());
    }
}
