//! The exports of this process: their stores, their kept state, and who may see them on which interface.
