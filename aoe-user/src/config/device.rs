//! Block devices by what is written on them: `PARTUUID=…` and `UUID=…`, as fstab(5) has them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where udev keeps a link for each device, by the word.
const LINKS: [(&str, &str); 2] = [
    ("UUID=", "/dev/disk/by-uuid"),
    ("PARTUUID=", "/dev/disk/by-partuuid"),
];
/// Words of fstab(5) that are no names: any two disks may have one label.
const LABELS: [(&str, &str); 2] = [
    ("LABEL=", "/dev/disk/by-label"),
    ("PARTLABEL=", "/dev/disk/by-partlabel"),
];

/// The device that such a text names; `None`: it is a path like any other. Nothing is looked at: the device may come later.
pub(crate) fn named(text: &str) -> Option<Result<PathBuf, String>> {
    let after = |(word, folder): &(&str, &'static str)| Some((text.strip_prefix(word)?.to_owned(), *folder));
    if let Some((id, folder)) = LINKS.iter().find_map(after) {
        let is_id = !id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        return Some(match is_id {
            true => Ok(Path::new(folder).join(id)),
            false => Err(format!(
                "hexadecimal digits and - are needed after it, as blkid(8) shows them; a file of such a name is written ./{text}"
            )),
        });
    }
    let (_, folder) = LABELS.iter().find_map(after)?;
    Some(Err(format!(
        "two disks may have one label; take UUID=, PARTUUID= or the link in {folder}"
    )))
}

/// A path of the command line, which may be such a text.
///
/// # Errors
/// When it is empty, or what follows the word names no device.
pub(crate) fn path(word: OsString) -> Result<PathBuf, String> {
    if word.is_empty() {
        return Err("the path of an image or block device is needed".into());
    }
    word.to_str().and_then(named).unwrap_or_else(|| Ok(word.into()))
}

/// The udev link goes by what is inside the file system, which whoever writes to the export can change.
pub(crate) fn is_fickle(path: &Path) -> bool {
    path.starts_with("/dev/disk/by-uuid") || path.starts_with("/dev/disk/by-label")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_the_names_of_fstab() {
        let id = "0a3407de-014b-458b-b5c1-848e92a327a3";
        for (text, expected) in [
            (format!("UUID={id}"), format!("/dev/disk/by-uuid/{id}")),
            ("UUID=ABCD-1234".into(), "/dev/disk/by-uuid/ABCD-1234".into()),
            (format!("PARTUUID={id}"), format!("/dev/disk/by-partuuid/{id}")),
            ("./UUID=1".into(), "./UUID=1".into()),
            ("uuid=1".into(), "uuid=1".into()),
        ] {
            assert_eq!(path(text.into()), Ok(PathBuf::from(expected)));
        }
        for (text, reason) in [
            ("", "is needed"),
            ("UUID=", "hexadecimal"),
            ("UUID=../../sda", "hexadecimal"),
            ("PARTUUID=\"1\"", "hexadecimal"),
            ("LABEL=root", "/dev/disk/by-label"),
            ("PARTLABEL=root", "/dev/disk/by-partlabel"),
        ] {
            assert!(path(text.into()).unwrap_err().contains(reason), "{text}");
        }
    }
}
