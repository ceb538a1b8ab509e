//! What can go wrong between a conversation and its prompt.

/// Why a chat template could not be loaded or rendered.
///
/// Every variant that concerns a template names it: the file it is from, and
/// where there are several in that file its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// A file that holds templates is not what it should be.
    #[error("{file}: {message}; save the tokenizer anew with save_pretrained() or correct the file")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// Several named templates, none of them the default.
    #[error(
        "the checkpoint has chat templates named {}, but none named default; put the one to use into \
         its folder as chat_template.jinja",
        .names.join(", ")
    )]
    NoDefault {
        /// The names there are.
        names: Vec<String>,
    },
    /// No template has the name that was asked for.
    #[error("the checkpoint has no chat template named {name}; it has {}", .names.join(", "))]
    NoSuchTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        names: Vec<String>,
    },
    /// The text of a template is not valid, or uses something this crate does not have.
    #[error("{template}, line {line}: {message}; this chat template cannot be used as it is")]
    Syntax {
        /// The template.
        template: String,
        /// Line in it, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The template refused the conversation through `raise_exception`.
    #[error("the chat template ({template}) refuses this conversation: {message}")]
    Raised {
        /// The template.
        template: String,
        /// What the template says.
        message: String,
    },
    /// Rendering failed.
    #[error(
        "{}: {message}; the conversation may lack something that this chat \
         template expects",
        place(.template, *.line)
    )]
    Render {
        /// The template.
        template: String,
        /// Line of the tag in it, from 1; 0 where unknown.
        line: usize,
        /// What failed.
        message: String,
    },
    /// A template argument that would have no effect.
    #[error(
        "the chat template ({template}) never reads `{argument}`, so setting it would change \
         nothing; {}",
        what_is_read(.reads, .standard)
    )]
    UnknownArgument {
        /// The template.
        template: String,
        /// The argument.
        argument: String,
        /// What the template reads beyond the standard variables.
        reads: Vec<String>,
        /// The standard variables it reads.
        standard: Vec<String>,
    },
    /// A template argument that would replace the conversation itself.
    #[error(
        "`{argument}` cannot be set as a template argument: it is filled in from the \
         conversation; leave it out"
    )]
    ReservedArgument {
        /// The argument.
        argument: String,
    },
    /// There is no message to render.
    #[error("the conversation is empty; give at least one message")]
    NoMessages,
    /// Something in the request is not a JSON object.
    #[error("{what} {index} is not an object; give each as an object such as {example}")]
    NotAnObject {
        /// `message`, `tool` or `document`.
        what: &'static str,
        /// Its position, from 0.
        index: usize,
        /// What one looks like.
        example: &'static str,
    },
}

fn place(template: &str, line: usize) -> String {
    match line {
        0 => template.to_owned(),
        _ => format!("{template}, line {line}"),
    }
}

fn what_is_read(reads: &[String], standard: &[String]) -> String {
    let standard = match standard {
        [] => String::new(),
        _ => format!(" (and the standard {})", standard.join(", ")),
    };
    match reads {
        [] => format!("it reads no arguments{standard}: leave the argument out"),
        _ => format!("it reads {}{standard}: correct the name or leave it out", reads.join(", ")),
    }
}
