//! How an image in a Ceph cluster is named: `rbd:POOL[/NAMESPACE]/IMAGE[@SNAP]`.

use std::fmt;
use std::path::Path;

/// What every such name begins with.
const SCHEME: &str = "rbd:";

/// An image, or a snapshot of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RbdPath {
    /// The pool.
    pub(crate) pool: String,
    /// The namespace in it; none: the pool's own.
    pub(crate) namespace: Option<String>,
    /// The image.
    pub(crate) image: String,
    /// Its snapshot; none: the image as it is now.
    pub(crate) snapshot: Option<String>,
}

impl RbdPath {
    /// Whether a path is meant as such a name, well formed or not.
    pub(crate) fn is_meant(path: &Path) -> bool {
        path.to_str().is_some_and(|text| text.starts_with(SCHEME))
    }

    /// Reads a name.
    ///
    /// # Errors
    /// What it should be.
    pub fn parse(path: &Path) -> Result<RbdPath, &'static str> {
        const FORM: &str = "an image in Ceph is rbd:POOL/IMAGE, rbd:POOL/NAMESPACE/IMAGE, or either with @SNAPSHOT behind it";
        let text = path.to_str().ok_or(FORM)?;
        let name = text.strip_prefix(SCHEME).ok_or(FORM)?;
        let (name, snapshot) = match name.split_once('@') {
            Some((name, snapshot)) => (name, Some(snapshot)),
            None => (name, None),
        };
        let (pool, namespace, image) = match name.split('/').collect::<Vec<_>>()[..] {
            [pool, image] => (pool, None, image),
            [pool, namespace, image] => (pool, Some(namespace), image),
            _ => return Err(FORM),
        };
        let parts = [Some(pool), namespace, Some(image), snapshot];
        let is_name = |part: &str| !part.is_empty() && !part.contains(['/', '@', '\0']);
        if !parts.into_iter().flatten().all(is_name) {
            return Err(FORM);
        }
        Ok(RbdPath {
            pool: pool.to_owned(),
            namespace: namespace.map(str::to_owned),
            image: image.to_owned(),
            snapshot: snapshot.map(str::to_owned),
        })
    }

    /// The image without its snapshot, as `rbd` takes it: `POOL/NAMESPACE/IMAGE`.
    pub fn spec(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{namespace}/{}", self.pool, self.image),
            None => format!("{}/{}", self.pool, self.image),
        }
    }
}

impl fmt::Display for RbdPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.spec())?;
        self.snapshot
            .iter()
            .try_for_each(|snapshot| write!(f, "@{snapshot}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, Option<String>, String, Option<String>)> {
        let path = RbdPath::parse(Path::new(text)).ok()?;
        assert_eq!(path.to_string(), text);
        Some((path.pool, path.namespace, path.image, path.snapshot))
    }

    #[test]
    fn names_have_two_or_three_parts_and_perhaps_a_snapshot() {
        let own = |text: &str| Some(text.to_owned());
        assert_eq!(parsed("rbd:p/i"), Some(("p".into(), None, "i".into(), None)));
        assert_eq!(
            parsed("rbd:p/n/i"),
            Some(("p".into(), own("n"), "i".into(), None))
        );
        assert_eq!(
            parsed("rbd:p/i@s"),
            Some(("p".into(), None, "i".into(), own("s")))
        );
        assert_eq!(
            parsed("rbd:p/n/i@s.1"),
            Some(("p".into(), own("n"), "i".into(), own("s.1")))
        );
        for wrong in [
            "rbd:",
            "rbd:p",
            "rbd:p/",
            "rbd:/i",
            "rbd:p/n/i/x",
            "rbd:p/i@",
            "rbd:p/i@a@b",
            "rbd:p/i@a/b",
            "p/i",
            "/dev/x",
        ] {
            assert!(RbdPath::parse(Path::new(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_path_that_begins_so_is_meant_as_such_a_name() {
        assert!(RbdPath::is_meant(Path::new("rbd:p")));
        assert!(!RbdPath::is_meant(Path::new("./rbd:p/i")));
        assert!(!RbdPath::is_meant(Path::new("/srv/rbd:p/i")));
    }
}
