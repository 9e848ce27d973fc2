"""Rows of known data sets: the columns are theirs, what stands in them is made up."""

U, A, S = "user", "assistant", "system"
NAN = float("nan")


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


HH = "\n\nHuman: Name a river.\n\nAssistant: The Rhine.\n\nHuman: How long?\n\nAssistant: {}"
HH_TURNS = talk((U, "Name a river."), (A, "The Rhine."), (U, "How long?"))
SCORES = {"correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 2}
POST = {"id": "t3_1", "post": "A long tale.", "title": "Help", "subreddit": "pets", "site": None, "article": None}
TLDR = "SUBREDDIT: r/pets\n\nTITLE: Help\n\nPOST: A long tale.\n\nTL;DR:"
TOXICITY = dict.fromkeys(
    ("profanity", "sexually_explicit", "identity_attack", "flirtation", "threat", "insult", "severe_toxicity"), 0.1
)
ASK = talk((U, "How tall is it?"))

# name -> (rows, kind, what is read: of a prompt its text, of a pair (last turn, chosen, rejected), of a row (last turn
# of the prompt or "", text, label), of a dialogue its texts)
SETS = {
    "UltraFeedback-binarized": (
        [
            {
                "prompt": "How tall is it?",
                "prompt_id": "ab12",
                "chosen": [*ASK, *talk((A, "3 m."))],
                "rejected": [*ASK, *talk((A, "I do not know."))],
                "messages": [*ASK, *talk((A, "3 m."))],
                "score_chosen": 8.5,
                "score_rejected": 2.0,
            }
        ],
        {"pairs": [("How tall is it?", "3 m.", "I do not know.")], "prompts": ["How tall is it?"],
         "dialogues": [("How tall is it?", "3 m.")]},
    ),
    "HelpSteer": (
        [{"prompt": "q?", "response": r, "helpfulness": h, **SCORES} for r, h in (("good", 4), ("bad", 0))],
        {"pairs": [("q?", "good", "bad")], "rows": [("q?", "good", 4.0), ("q?", "bad", 0.0)], "prompts": ["q?"]},
    ),
    "HelpSteer2-preference": (
        [
            {
                "split": split,
                "prompt": "q?",
                "response_1": "one",
                "response_2": f"two {split}",
                "preference_strength": strength,
                "preference_statement": "s",
                "preference_elaboration": "e",
                "three_most_similar_preferences": [],
                "all_preferences_unprocessed": [],
            }
            for split, strength in (("train", -2), ("val", 3))
        ],
        {"pairs": [("q?", "one", "two train"), ("q?", "two val", "one")], "prompts": ["q?"]},
    ),
    "HH-RLHF": (
        [{"chosen": HH.format("1230 km."), "rejected": HH.format("5 km.")}],
        {"pairs": [("How long?", "1230 km.", "5 km.")], "prompts": ["How long?"]},
    ),
    "Nectar": (
        [
            {
                "prompt": "\n\nHuman: Name a river.\n\nAssistant: ",
                "answers": [{"answer": a, "model": "m", "rank": r} for a, r in (("Rain.", 3.0), ("Po.", 1.0))],
                "turns": 1,
                "num_responses": 7,
                "source": ["lmsys-chat-1m"],
                "good_natured": True,
            }
        ],
        {"pairs": [("Name a river.", "Po.", "Rain.")], "prompts": ["Name a river."]},
    ),
    "TL;DR comparisons": (
        [
            {
                "info": POST,
                "summaries": [{"text": t, "policy": "sup1", "note": None} for t in (" A tale.", " None.")],
                "choice": 0,
                "worker": "w",
                "batch": "b0",
                "split": "valid1",
                "extra": {"confidence": None},
            }
        ],
        {"pairs": [(TLDR, " A tale.", " None.")], "prompts": [TLDR]},
    ),
    "TL;DR prompts": (
        [{"prompt": TLDR, "completion": " A tale."}],
        {"prompts": [TLDR], "rows": [(TLDR, " A tale.", None)], "dialogues": [(TLDR, " A tale.")]},
    ),
    "TL;DR prompts, oat": ([{"prompt": TLDR, "pythia-1b-reference": " A tale."}], {"prompts": [TLDR]}),
    "SHP": (
        [
            {
                "post_id": "x1", "domain": "askculinary_train", "upvote_ratio": 0.9, "history": "Why salt?",
                "c_root_id_A": "a", "c_root_id_B": "b", "created_at_utc_A": 1, "created_at_utc_B": 2,
                "score_A": 9, "score_B": 3, "human_ref_A": "Taste.", "human_ref_B": "No.", "labels": 1,
                "seconds_difference": 1.0, "score_ratio": 3.0,
            }
        ],
        {"pairs": [("Why salt?", "Taste.", "No.")], "prompts": ["Why salt?"]},
    ),
    "MT-Bench": (
        [{"question_id": 81, "category": "writing", "turns": ["Write.", "Again."], "reference": ["x"]}],
        {"prompts": ["Write."]},
    ),
    "MT-Bench of the hub": (
        [{"prompt": ["Write.", "Again."], "reference": [], "category": "writing", "prompt_id": 12}],
        {"prompts": ["Write."]},
    ),
    "Vicuna-Eval": ([{"question_id": 1, "text": "How?", "category": "generic"}], {"prompts": ["How?"]}),
    "ToxiGen": (
        [
            {
                "prompt": "- they are kind\\n- they are wise\\n-", "generation": "they are good at maths",
                "generation_method": "top-k", "group": "asian", "prompt_label": 0, "roberta_prediction": 0.02,
            }
        ],
        {"rows": [("", "they are good at maths", 0.02)]},
    ),
    "ToxiGen, annotated": (
        [
            {"text": t, "target_group": "asian", "toxicity_ai": ai, "toxicity_human": human}
            for t, ai, human in (("kind", 1.0, 1.0), ("rude", 4.0, 3.67), ("even", 2.5, 3.0))
        ],
        {"rows": [("", "kind", 0.0), ("", "rude", 1.0), ("", "even", 0.0)]},
    ),
    "WikiText": (
        [{"text": t} for t in ("", " = A river = \n", "", " It is long . \n")],
        {"rows": [("", " = A river = \n", None), ("", " It is long . \n", None)]},
    ),
    "RealToxicityPrompts": (
        [
            {
                "filename": "f.txt", "begin": 1, "end": 9, "challenging": False,
                "prompt": {"text": "The man", **TOXICITY, "toxicity": 0.2},
                "continuation": {"text": " sat", **TOXICITY, "toxicity": toxic},
            }
            for toxic in (0.05,)
        ],
        {"rows": [("The man", " sat", 0.05)], "prompts": ["The man"]},
    ),
    "TRL language modeling": ([{"text": "The sky is blue."}], {"rows": [("", "The sky is blue.", None)]}),
    "TRL language modeling, messages": (
        [{"messages": talk((U, "What color?"), (A, "Blue."))}],
        {"dialogues": [("What color?", "Blue.")], "prompts": ["What color?"]},
    ),
    "TRL prompt-only": ([{"prompt": "The sky is"}], {"prompts": ["The sky is"]}),
    "TRL prompt-only, messages": ([{"prompt": talk((U, "What color?"))}], {"prompts": ["What color?"]}),
    "TRL completion": (
        [{"prompt": "The sky is", "completion": " blue."}],
        {"rows": [("The sky is", " blue.", None)], "prompts": ["The sky is"]},
    ),
    "TRL completion, messages": (
        [{"prompt": talk((S, "Brief."), (U, "What color?")), "completion": talk((A, "Blue."))}],
        {"rows": [("What color?", "Blue.", None)], "dialogues": [("Brief.", "What color?", "Blue.")]},
    ),
    "TRL preference": (
        [{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}],
        {"pairs": [("The sky is", " blue.", " green.")]},
    ),
    "TRL preference, messages": (
        [{"prompt": talk((U, "What?")), "chosen": talk((A, "Blue.")), "rejected": talk((A, "Green."))}],
        {"pairs": [("What?", "Blue.", "Green.")]},
    ),
    "TRL implicit preference": (
        [{"chosen": "The sky is blue.", "rejected": "The sky is green."}],
        {"pairs": [("The sky is", " blue.", " green.")]},
    ),
    "TRL implicit preference, messages": (
        [{"chosen": talk((U, "What?"), (A, "Blue.")), "rejected": talk((U, "What?"), (A, "Green."))}],
        {"pairs": [("What?", "Blue.", "Green.")]},
    ),
    "TRL unpaired preference": (
        [{"prompt": "The sky is", "completion": c, "label": l} for c, l in ((" blue.", True), (" green.", False))],
        {"rows": [("The sky is", " blue.", 1.0), ("The sky is", " green.", 0.0)]},
    ),
    "TRL unpaired preference, messages": (
        [{"prompt": talk((U, "What?")), "completion": talk((A, "Blue.")), "label": True}],
        {"rows": [("What?", "Blue.", 1.0)]},
    ),
    "ShareGPT": (
        [{"id": "s", "conversations": [{"from": "human", "value": "c?"}, {"from": "gpt", "value": "d."}]}],
        {"dialogues": [("c?", "d.")], "prompts": ["c?"]},
    ),
    "messages": (
        [{"messages": talk((S, "Brief."), (U, "Hi?"), (A, "Ho."), (U, "Thanks."))}],
        {"dialogues": [("Brief.", "Hi?", "Ho.")],
         "prompts": ["system: Brief.\n\nuser: Hi?\n\nassistant: Ho.\n\nuser: Thanks."]},
    ),
}  # fmt: skip


def shown(kind, rows):
    """What is compared with SETS."""
    last = lambda turns: turns[-1]["content"] if turns else ""  # noqa: E731
    return {
        "prompts": lambda: [p.text if not p.turns or "system" in p.text else last(p.turns) for p in rows],
        "pairs": lambda: [(last(p.prompt), p.chosen, p.rejected) for p in rows],
        "rows": lambda: [(last(p.prompt), p.text, p.label) for p in rows],
        "dialogues": lambda: [tuple(t["content"] for t in turns) for turns in rows],
    }[kind]()
