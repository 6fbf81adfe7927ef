//! Judge prompts from templates, and grades from judge replies.
