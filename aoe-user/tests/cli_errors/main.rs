//! What operators get wrong, through the real binary: each mistake has a message that names the value and what it may
//! be, and an exit code that scripts can rely on (1 failed, 2 wrong usage). Nothing here needs root, though root sees
//! more.

mod arguments;
mod config;
mod copies;
mod exports;
mod here;
mod messages;
mod mistakes;
mod place;
