//! Ends of operations that came while a gateway may answer nobody. An answer that is given up has the initiator send its write again, which would be
//! carried out again then, perhaps after newer writes of others; and it would be waited for. So the operation goes on until it may be answered.

use parking_lot::Mutex;

type Post = Box<dyn FnOnce() + Send>;

/// What is to be told later.
#[derive(Default)]
pub(super) struct Withheld {
    posts: Mutex<Vec<Post>>,
}

impl Withheld {
    /// Tells an end, or keeps it while `is_to_wait` says so. That is asked so that whoever ends the wait and then calls [`Withheld::let_go`] misses none.
    pub(super) fn deliver(&self, is_to_wait: impl FnOnce() -> bool, post: impl FnOnce() + Send + 'static) {
        let mut posts = self.posts.lock();
        if is_to_wait() {
            return posts.push(Box::new(post));
        }
        drop(posts);
        post();
    }

    /// Tells all.
    pub(super) fn let_go(&self) {
        let posts = std::mem::take(&mut *self.posts.lock());
        posts.into_iter().for_each(|post| post());
    }
}
