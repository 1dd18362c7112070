# Completion of ctxtune in bash, written by completions/generate.py. Use: source ctxtune.bash

_ctxtune_offer() {
    local word
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(
        compgen -W "$2" -- "$cur"
        if [[ $1 == files ]]; then compgen -f -- "$cur"; fi
    )
    case $1 in
    files) compopt -o filenames 2>/dev/null ;;
    open) compopt -o nospace 2>/dev/null ;;
    esac
    return 0
}

_ctxtune() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} at=ctxtune word
    COMPREPLY=()
    if [[ $cur == '=' ]]; then
        cur=
        [[ $prev == -* ]] || return 0
    elif [[ $prev == '=' ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
        [[ $prev == -* ]] || return 0
    fi
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$at $word" in
        "ctxtune quickstart"|"ctxtune pretrain"|"ctxtune freeze"|"ctxtune mask"|"ctxtune prompt"|"ctxtune fewshot"|"ctxtune run"|"ctxtune eval"|"ctxtune generate"|"ctxtune adapter"|"ctxtune adapter show"|"ctxtune adapter verify"|"ctxtune adapter merge"|"ctxtune adapter export"|"ctxtune adapter scale"|"ctxtune adapter compose"|"ctxtune adapter diff"|"ctxtune model"|"ctxtune model pull"|"ctxtune model list"|"ctxtune model show"|"ctxtune data"|"ctxtune data pull"|"ctxtune data show"|"ctxtune data stats"|"ctxtune cache"|"ctxtune cache list"|"ctxtune cache clear"|"ctxtune recipe"|"ctxtune recipe list"|"ctxtune recipe show"|"ctxtune recipe new"|"ctxtune recipe check"|"ctxtune recipe schema") at="$at $word" ;;
        esac
    done
    case $at in
    "ctxtune")
        case $cur in -*) _ctxtune_offer words '--version --debug -h --help' ;;
        *) _ctxtune_offer words 'quickstart pretrain freeze mask prompt fewshot run eval generate adapter model data cache recipe' ;; esac
        ;;
    "ctxtune quickstart")
        case $prev in
        --out) _ctxtune_offer files ''; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--out --json --quiet -q -h --help' ;;
        *) : ;; esac
        ;;
    "ctxtune pretrain")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --method) _ctxtune_offer words 'full freeze mask prompt'; return ;;
        --train|--eval|--replay|--tokenizer|--out|--accelerate) _ctxtune_offer files ''; return ;;
        --arch) _ctxtune_offer words 'llama qwen3 gpt2 neox'; return ;;
        --depth|--params|--vocabulary|--epochs|--steps|--minutes|--batch|--forget-budget|--seed|--nproc|--nnodes|--rdzv) :; return ;;
        --layers) _ctxtune_offer words 'auto'; return ;;
        --optimizer) _ctxtune_offer words 'adamw muon schedule_free'; return ;;
        --lr) _ctxtune_offer words 'auto transfer'; return ;;
        --cache) _ctxtune_offer words 'auto memory disk off'; return ;;
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        --device) _ctxtune_offer words 'auto cpu cuda'; return ;;
        --dtype) _ctxtune_offer words 'auto float32 bfloat16 float16'; return ;;
        --quant) _ctxtune_offer words 'none int8 nf4 fp4'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --method --train --eval --replay --arch --depth --params --vocabulary --tokenizer --layers --optimizer --epochs --steps --minutes --batch --lr --forget-budget --cache --out --set --seed --device --dtype --quant --nproc --nnodes --rdzv --fsdp --accelerate --resume --dry-run --json --quiet -q -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune freeze")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --train|--eval|--out) _ctxtune_offer files ''; return ;;
        --prompt|--answer|--choices|--messages|--lr-decay|--sample|--epochs|--batch|--forget-budget|--seed|--nproc) :; return ;;
        --layers|--lr) _ctxtune_offer words 'auto'; return ;;
        --unfreeze) _ctxtune_offer words 'at_once gradual'; return ;;
        --cache) _ctxtune_offer words 'auto memory disk off'; return ;;
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        --device) _ctxtune_offer words 'auto cpu cuda'; return ;;
        --dtype) _ctxtune_offer words 'auto float32 bfloat16 float16'; return ;;
        --quant) _ctxtune_offer words 'none int8 nf4 fp4'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --train --eval --prompt --answer --choices --messages --layers --lr-decay --unfreeze --sample --epochs --batch --lr --forget-budget --cache --out --set --seed --device --dtype --quant --nproc --resume --dry-run --json --quiet -q -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune mask")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --train|--eval|--out) _ctxtune_offer files ''; return ;;
        --prompt|--answer|--choices|--messages|--density|--budget|--l2|--l1|--epochs|--batch|--forget-budget|--seed|--nproc) :; return ;;
        --learn) _ctxtune_offer words 'changes bits'; return ;;
        --select) _ctxtune_offer open 'auto random magnitude lift contrast fisher snip movement grad l0 bias norms file:'; return ;;
        --shape) _ctxtune_offer words 'columns rows blocks entries'; return ;;
        --layers|--ewc|--lr) _ctxtune_offer words 'auto'; return ;;
        --cache) _ctxtune_offer words 'auto memory disk off'; return ;;
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        --device) _ctxtune_offer words 'auto cpu cuda'; return ;;
        --dtype) _ctxtune_offer words 'auto float32 bfloat16 float16'; return ;;
        --quant) _ctxtune_offer words 'none int8 nf4 fp4'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --train --eval --prompt --answer --choices --messages --learn --select --shape --density --budget --layers --l2 --l1 --ewc --control --choose-only --epochs --batch --lr --forget-budget --cache --out --set --seed --device --dtype --quant --nproc --resume --dry-run --json --quiet -q -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune prompt")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --train|--eval|--out) _ctxtune_offer files ''; return ;;
        --prompt|--answer|--choices|--shots|--top|--candidates|--epochs|--batch|--forget-budget|--seed|--nproc) :; return ;;
        --kind) _ctxtune_offer words 'prefix input residual ptuning suffix'; return ;;
        --tokens|--lr) _ctxtune_offer words 'auto'; return ;;
        --init) _ctxtune_offer open 'auto fewshot prompt labels vocab zero text: adapter:'; return ;;
        --distill-from) _ctxtune_offer words 'fewshot'; return ;;
        --cache) _ctxtune_offer words 'auto memory disk off'; return ;;
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        --device) _ctxtune_offer words 'auto cpu cuda'; return ;;
        --dtype) _ctxtune_offer words 'auto float32 bfloat16 float16'; return ;;
        --quant) _ctxtune_offer words 'none int8 nf4 fp4'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --train --eval --prompt --answer --choices --kind --tokens --init --shots --top --distill-from --search --candidates --epochs --batch --lr --forget-budget --cache --out --set --seed --device --dtype --quant --nproc --resume --dry-run --json --quiet -q -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune fewshot")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --train|--eval|--scores|--save|--out) _ctxtune_offer files ''; return ;;
        --prompt|--answer|--choices|--shots|--seeds|--seed|--nproc) :; return ;;
        --metric) _ctxtune_offer words 'likelihood exact f1 number bleu chrf rouge'; return ;;
        --as) _ctxtune_offer words 'lm-eval'; return ;;
        --select) _ctxtune_offer words 'fixed random balanced bm25 knn mmr cluster influence'; return ;;
        --order) _ctxtune_offer words 'auto as-is near-last global-e best'; return ;;
        --calibrate) _ctxtune_offer words 'none contextual domain batch pmi channel'; return ;;
        --prior) _ctxtune_offer words 'auto'; return ;;
        --on-error) _ctxtune_offer words 'stop mark'; return ;;
        --cache) _ctxtune_offer words 'auto memory disk off'; return ;;
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        --device) _ctxtune_offer words 'auto cpu cuda'; return ;;
        --dtype) _ctxtune_offer words 'auto float32 bfloat16 float16'; return ;;
        --quant) _ctxtune_offer words 'none int8 nf4 fp4'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --train --eval --prompt --answer --choices --metric --as --chat --no-chat --shots --select --order --seeds --calibrate --prior --scores --save --on-error --cache --out --set --seed --device --dtype --quant --nproc --resume --dry-run --json --quiet -q -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune run")
        case $prev in
        --out) _ctxtune_offer files ''; return ;;
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        --nproc) :; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--out --set --nproc --resume --dry-run --json --quiet -q -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune eval")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --adapter|--eval|--save) _ctxtune_offer files ''; return ;;
        --prompt|--answer|--choices|--messages|--nproc) :; return ;;
        --metric) _ctxtune_offer words 'likelihood exact f1 number bleu chrf rouge'; return ;;
        --against) _ctxtune_offer files 'base'; return ;;
        --alpha) _ctxtune_offer words 'grid'; return ;;
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        --device) _ctxtune_offer words 'auto cpu cuda'; return ;;
        --dtype) _ctxtune_offer words 'auto float32 bfloat16 float16'; return ;;
        --quant) _ctxtune_offer words 'none int8 nf4 fp4'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --adapter --eval --prompt --answer --choices --messages --metric --save --against --alpha --set --device --dtype --quant --force --nproc --json --quiet -q -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune generate")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --adapter) _ctxtune_offer files ''; return ;;
        --max-tokens|--stop|--temperature|--top-p|--top-k|--min-p|--repetition-penalty|--seed|--system|--batch) :; return ;;
        --device) _ctxtune_offer words 'auto cpu cuda'; return ;;
        --dtype) _ctxtune_offer words 'auto float32 bfloat16 float16'; return ;;
        --quant) _ctxtune_offer words 'none int8 nf4 fp4'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --adapter --max-tokens --stop --temperature --top-p --top-k --min-p --repetition-penalty --seed --chat --no-chat --system --stream --no-stream --jsonl --batch --device --dtype --quant --force --json --quiet -q -h --help' ;;
        *) : ;; esac
        ;;
    "ctxtune adapter")
        case $cur in -*) _ctxtune_offer words '-h --help' ;;
        *) _ctxtune_offer words 'show verify merge export scale compose diff' ;; esac
        ;;
    "ctxtune adapter show")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --against) _ctxtune_offer files ''; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --against --json -h --help' ;;
        *) _ctxtune_offer files '' ;; esac
        ;;
    "ctxtune adapter verify")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --json -h --help' ;;
        *) _ctxtune_offer files '' ;; esac
        ;;
    "ctxtune adapter merge")
        case $prev in
        --out) _ctxtune_offer files ''; return ;;
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --dtype) _ctxtune_offer words 'float32 float16 bfloat16'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--out --model --dtype --force --json -h --help' ;;
        *) _ctxtune_offer files '' ;; esac
        ;;
    "ctxtune adapter export")
        case $prev in
        --out) _ctxtune_offer files ''; return ;;
        --to) _ctxtune_offer words 'peft lora model'; return ;;
        --rank) :; return ;;
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --dtype) _ctxtune_offer words 'float32 float16 bfloat16'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--out --to --rank --model --dtype --force --json -h --help' ;;
        *) _ctxtune_offer files '' ;; esac
        ;;
    "ctxtune adapter scale")
        case $prev in
        --out) _ctxtune_offer files ''; return ;;
        --alpha) :; return ;;
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--out --alpha --model --force --json -h --help' ;;
        *) _ctxtune_offer files '' ;; esac
        ;;
    "ctxtune adapter compose")
        case $prev in
        --out) _ctxtune_offer files ''; return ;;
        --weights) :; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--out --weights --json -h --help' ;;
        *) _ctxtune_offer files '' ;; esac
        ;;
    "ctxtune adapter diff")
        case $cur in -*) _ctxtune_offer words '--json -h --help' ;;
        *) _ctxtune_offer files '' ;; esac
        ;;
    "ctxtune model")
        case $cur in -*) _ctxtune_offer words '-h --help' ;;
        *) _ctxtune_offer words 'pull list show' ;; esac
        ;;
    "ctxtune model pull")
        case $prev in
        --from) _ctxtune_offer files ''; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--from --accept-licence --json -h --help' ;;
        *) _ctxtune_offer words 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6' ;; esac
        ;;
    "ctxtune model list")
        case $cur in -*) _ctxtune_offer words '--json -h --help' ;;
        *) : ;; esac
        ;;
    "ctxtune model show")
        case $cur in -*) _ctxtune_offer words '--json -h --help' ;;
        *) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6' ;; esac
        ;;
    "ctxtune data")
        case $cur in -*) _ctxtune_offer words '-h --help' ;;
        *) _ctxtune_offer words 'pull show stats' ;; esac
        ;;
    "ctxtune data pull")
        case $prev in
        --revision) :; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--revision --json -h --help' ;;
        *) : ;; esac
        ;;
    "ctxtune data show")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --train) _ctxtune_offer files ''; return ;;
        --prompt|--answer|--choices|--messages|--row|--rows) :; return ;;
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --train --prompt --answer --choices --messages --row --rows --tokens --set --json -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune data stats")
        case $prev in
        --model) _ctxtune_offer files 'smollm2-135m-instruct smollm2-135m-instruct-q4 gemma3-270m-q4 minilm-l6'; return ;;
        --train|--eval) _ctxtune_offer files ''; return ;;
        --prompt|--answer|--choices|--messages) :; return ;;
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--model --train --eval --prompt --answer --choices --messages --set --json -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune cache")
        case $cur in -*) _ctxtune_offer words '-h --help' ;;
        *) _ctxtune_offer words 'list clear' ;; esac
        ;;
    "ctxtune cache list")
        case $cur in -*) _ctxtune_offer words '--json -h --help' ;;
        *) : ;; esac
        ;;
    "ctxtune cache clear")
        case $prev in
        --older-than) :; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--older-than --json -h --help' ;;
        *) : ;; esac
        ;;
    "ctxtune recipe")
        case $cur in -*) _ctxtune_offer words '-h --help' ;;
        *) _ctxtune_offer words 'list show new check schema' ;; esac
        ;;
    "ctxtune recipe list")
        case $cur in -*) _ctxtune_offer words '--json -h --help' ;;
        *) : ;; esac
        ;;
    "ctxtune recipe show")
        case $cur in -*) _ctxtune_offer words '-h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune recipe new")
        case $prev in
        --out) _ctxtune_offer files ''; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--out -h --help' ;;
        *) _ctxtune_offer words 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune recipe check")
        case $prev in
        --set) _ctxtune_offer open 'ctxtune= model= quant= device= dtype= data.train= data.eval= data.prompt= data.answer= data.text= data.held_out= data.replay= data.replay_share= data.choices= data.messages= data.tools= data.learn= data.delimiter= data.separator= data.instruction= data.max_length= data.on_long= method.name= method.layers= method.lr_decay= method.unfreeze= method.sample= method.sample_every= method.learn= method.select= method.shape= method.density= method.budget= method.rank= method.score_batches= method.score_rows= method.regrow= method.regrow_every= method.regrow_batches= method.candidates= method.decide= method.masks= method.combine= method.l2= method.l1= method.ewc= method.control= method.stored= method.kind= method.tokens= method.init= method.adapters= method.shots= method.top= method.distill_from= method.replay= method.one_more= method.chat= method.order= method.clusters= method.held_out= method.mmr_lambda= method.seed= method.seeds= method.calibrate= method.prior= method.arch= method.depth= method.params= method.width= method.heads= method.previous_heads= method.feed_forward= method.row= method.vocabulary= method.tokenizer= method.tie= method.spelling= method.duplicates= method.compile= method.minutes= train.epochs= train.steps= train.batch= train.micro_batch= train.pack= train.lr= train.optimizer= train.schedule= train.warmup= train.weight_decay= train.clip= train.seed= train.eval_every= train.save_every= train.patience= forget.probe= forget.budget= forget.text= generate.max_tokens= generate.temperature= generate.top_p= generate.top_k= generate.min_p= generate.repetition_penalty= generate.seed= generate.stop= generate.chat= generate.system= score.metric= score.extract= score.references= score.tokenize= score.stem= cache= out= inputs='; return ;;
        esac
        case $cur in -*) _ctxtune_offer words '--set --json -h --help' ;;
        *) _ctxtune_offer files 'chinese columns domain fewshot freeze mask novel pretrain prompt quickstart suffix' ;; esac
        ;;
    "ctxtune recipe schema")
        case $cur in -*) _ctxtune_offer words '-h --help' ;;
        *) : ;; esac
        ;;
    esac
}
complete -F _ctxtune ctxtune
