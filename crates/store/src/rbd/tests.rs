//! What can be tried without a cluster.

use super::ffi::load;

#[test]
fn a_missing_library_is_named_with_the_package_that_brings_it() {
    let missing = load("librados.so.2", "librbd-that-nobody-has.so.1")
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("librbd-that-nobody-has.so.1 cannot be loaded (")
            && missing.ends_with("install the package librbd1"),
        "{missing}"
    );
}

#[test]
fn a_library_without_the_functions_is_told() {
    let old = load("libc.so.6", "libc.so.6").unwrap_err().to_string();
    assert!(old.starts_with("libc.so.6 has no ra"), "{old}");
}

#[test]
fn long_operations_are_cut() {
    let pieces: Vec<_> = super::cut(100, 25, 10).collect();
    assert_eq!(pieces, [(100, 10), (110, 10), (120, 5)]);
}
