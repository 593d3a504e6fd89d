//! Forms by name, for files without a template: llama.cpp's names, and what it writes for them (`src/llama-chat.cpp`).

/// A form.
pub(super) struct Named {
    /// Its name.
    pub name: &'static str,
    /// A template that writes it.
    pub source: &'static str,
    /// A token whose presence tells that a vocabulary belongs to it, where one does.
    pub mark: Option<&'static str>,
}

/// All forms but Mistral's exact ones; of those with a mark the first fits.
pub(super) const NAMED: &[Named] = &[
    marked(
        "llama3",
        "<|start_header_id|>",
        "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ),
    marked(
        "llama4",
        "<|header_start|>",
        "{% for m in messages %}{{ '<|header_start|>' + m.role + '<|header_end|>\n\n' + m.content|trim + '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header_start|>assistant<|header_end|>\n\n' }}{% endif %}",
    ),
    marked(
        "phi4",
        "<|im_sep|>",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    ),
    marked(
        "chatml",
        "<|im_start|>",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    marked(
        "gemma",
        "<start_of_turn>",
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = ns.system + m.content|trim %}{% else %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}{% if ns.system and m.role != 'assistant' %}{{ ns.system + '\n\n' }}{% set ns.system = '' %}{% endif %}{{ m.content|trim + '<end_of_turn>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ),
    marked(
        "command-r",
        "<|START_OF_TURN_TOKEN|>",
        "{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|><|' + {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[m.role] + '_TOKEN|>' + m.content|trim + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
    ),
    marked(
        "granite",
        "<|start_of_role|>",
        "{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
    ),
    marked(
        "deepseek3",
        "<｜Assistant｜>",
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}{{ '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
    ),
    marked(
        "deepseek2",
        "<｜end▁of▁sentence｜>",
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}{% else %}{{ 'Assistant: ' + m.content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    ),
    marked(
        "phi3",
        "<|assistant|>",
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
    marked(
        "exaone3",
        "[|assistant|]",
        "{% for m in messages %}{{ '[|' + m.role + '|]' + m.content|trim + ('\n' if m.role == 'user' else '[|endofturn|]\n') }}{% endfor %}{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}",
    ),
    marked(
        "openchat",
        "<|end_of_turn|>",
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '<|end_of_turn|>' }}{% else %}{{ 'GPT4 Correct ' + m.role|capitalize + ': ' + m.content + '<|end_of_turn|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}",
    ),
    marked(
        "mistral-v7",
        "[SYSTEM_PROMPT]",
        "{% for m in messages %}{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT] ' + m.content + '[/SYSTEM_PROMPT]' }}{% elif m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}",
    ),
    named(
        "mistral-v7-tekken",
        "{% for m in messages %}{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}{% elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content + '</s>' }}{% endif %}{% endfor %}",
    ),
    named(
        "mistral-v3-tekken",
        "{% set ns = namespace(inside=false) %}{% for m in messages %}{% if not ns.inside %}[INST]{% set ns.inside = true %}{% endif %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}{{ m.content + '[/INST]' }}{% else %}{{ m.content + '</s>' }}{% set ns.inside = false %}{% endif %}{% endfor %}",
    ),
    named(
        "llama2",
        "{{ '[INST] ' }}{% set ns = namespace(inside=true) %}{% for m in messages %}{% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif %}{% if m.role == 'system' %}{{ m.content + '\n' }}{% elif m.role == 'user' %}{{ m.content + ' [/INST]' }}{% else %}{{ m.content + '</s>' }}{% set ns.inside = false %}{% endif %}{% endfor %}",
    ),
    named(
        "llama2-sys",
        "{{ '[INST] ' }}{% set ns = namespace(inside=true) %}{% for m in messages %}{% if not ns.inside %}{{ '[INST] ' }}{% set ns.inside = true %}{% endif %}{% if m.role == 'system' %}{{ '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' }}{% elif m.role == 'user' %}{{ m.content + ' [/INST]' }}{% else %}{{ m.content + '</s>' }}{% set ns.inside = false %}{% endif %}{% endfor %}",
    ),
    named(
        "llama2-sys-bos",
        "{{ '[INST] ' }}{% set ns = namespace(inside=true) %}{% for m in messages %}{% if not ns.inside %}{{ '<s>[INST] ' }}{% set ns.inside = true %}{% endif %}{% if m.role == 'system' %}{{ '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' }}{% elif m.role == 'user' %}{{ m.content + ' [/INST]' }}{% else %}{{ m.content + '</s>' }}{% set ns.inside = false %}{% endif %}{% endfor %}",
    ),
    named(
        "falcon3",
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
    named(
        "zephyr",
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|endoftext|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
    named(
        "monarch",
        "{% for m in messages %}{{ ('' if loop.first else '<s>') + m.role + '\n' + m.content + '</s>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}",
    ),
    named(
        "orion",
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = ns.system + m.content %}{% elif m.role == 'user' %}{{ 'Human: ' }}{% if ns.system %}{{ ns.system + '\n\n' }}{% set ns.system = '' %}{% endif %}{{ m.content + '\n\nAssistant: </s>' }}{% else %}{{ m.content + '</s>' }}{% endif %}{% endfor %}",
    ),
    named(
        "vicuna",
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}{{ 'USER: ' + m.content + '\n' }}{% else %}{{ 'ASSISTANT: ' + m.content + '</s>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    ),
    named(
        "vicuna-orca",
        "{% for m in messages %}{% if m.role == 'system' %}{{ 'SYSTEM: ' + m.content + '\n' }}{% elif m.role == 'user' %}{{ 'USER: ' + m.content + '\n' }}{% else %}{{ 'ASSISTANT: ' + m.content + '</s>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    ),
    named(
        "deepseek",
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n' }}{% else %}{{ '### Response:\n' + m.content + '\n<|EOT|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
    ),
];

const fn named(name: &'static str, source: &'static str) -> Named {
    Named { name, source, mark: None }
}

const fn marked(name: &'static str, mark: &'static str, source: &'static str) -> Named {
    Named { name, source, mark: Some(mark) }
}
